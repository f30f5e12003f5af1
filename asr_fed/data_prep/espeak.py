"""espeak-ng through ctypes: text to samples, offline, with the library and voices of `espeakng-loader`.

The library is one global state machine: use it from one thread. Its output depends slightly on earlier calls in the
same process (random jitter of the voice), so samples are equal only for the same calls in the same order in a fresh
process.
"""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from asr_fed.system.errors import UserError

# From the library's public header, speak_lib.h
AUDIO_OUTPUT_SYNCHRONOUS = 2
INITIALIZE_DONT_EXIT = 0x8000
CHARS_UTF8, POSITION_CHARACTER = 1, 1
RATE, PITCH, RANGE = 1, 3, 4

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Espeak:
    """A running synthesiser. `sample_rate` is in Hz."""

    sample_rate: int

    def __init__(self) -> None:
        """Raises UserError where espeakng-loader is missing or its library does not start."""
        try:
            import espeakng_loader  # an extra: only the demo corpus needs it
        except ImportError:
            raise UserError(
                "The synthetic corpus is spoken by espeak-ng, which is not installed: "
                "pip install 'asr-fed[demo]' (it brings the package espeakng-loader)."
            ) from None
        data = espeakng_loader.get_data_path()
        try:
            self._library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        except OSError as error:
            raise UserError(f"The library of espeak-ng cannot be loaded: {error}. Reinstall espeakng-loader.") from None
        self._blocks: list[np.ndarray] = []
        self._callback = _Callback(self._collect)  # kept here, because the library has only its address
        self.sample_rate = self._library.espeak_Initialize(
            AUDIO_OUTPUT_SYNCHRONOUS, 0, str(data).encode(), INITIALIZE_DONT_EXIT
        )
        if self.sample_rate <= 0:
            raise UserError(
                f"espeak-ng does not start with its data at {data}. Reinstall espeakng-loader; a path that "
                f"is too long for espeak-ng (this one has {len(str(data))} characters) also does this."
            )
        self._library.espeak_SetSynthCallback(self._callback)
        self.variants = frozenset(path.name for path in Path(data, "voices", "!v").iterdir())

    def say(self, text: str, voice: str, *, pitch: int = 50, pitch_range: int = 50, rate: int = 175) -> np.ndarray:
        """Speak `text`: int16 samples, shape (samples,), at `sample_rate`.

        `voice` is a language, or language+variant ("fr+f2"); `pitch` and `pitch_range` are 0-99, where 50 is the
        voice's own; `rate` is in words per minute. Raises ValueError for an unknown voice.
        """
        _, _, variant = voice.partition("+")
        known = not variant or variant in self.variants  # espeak accepts an unknown variant without an error
        if not known or self._library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in ((RATE, rate), (PITCH, pitch), (RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._blocks.clear()
        data = text.encode()
        status = self._library.espeak_Synth(
            data, ctypes.c_size_t(len(data) + 1), 0, POSITION_CHARACTER, 0, CHARS_UTF8, None, None
        )
        if status or self._library.espeak_Synchronize():
            raise RuntimeError(f"espeak-ng failed on {text!r} with voice {voice!r}")
        return np.concatenate(self._blocks) if self._blocks else np.zeros(0, np.int16)

    def _collect(self, samples: Any, count: int, _events: int | None) -> int:
        if samples and count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0  # go on
