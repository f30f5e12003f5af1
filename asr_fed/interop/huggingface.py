"""Encoders in Hugging Face format, from a folder on this machine: settings and weights are read, and nothing is run.

A folder may come from anyone. Code in it, or named by it, is refused, and so are pickled weights. Nothing is looked up
on a network.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from omegaconf.errors import OmegaConfBaseException

from asr_fed.config.check_encoder import check_shape
from asr_fed.config.explain import explain, nearest
from asr_fed.config.pretrained import PretrainedConfig, PretrainedKind
from asr_fed.model.adapters import is_of_adapter
from asr_fed.model.pretrained import (
    SampleEncoder,
    WhisperEncoder,
    config_class,
    create_pretrained,
    model_class,
    names,
    transformers_config,
)
from asr_fed.model.typed import typed
from asr_fed.system.errors import UserError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
OTHER_MODELS = ("add_adapter", "adapter_attn_dim", "conv_pos_batch_norm")  # not built by asr_fed, where they are set
PICKLED = ("bin", "pt", "pth", "ckpt")
LEAST_BYTES = 2  # of a parameter, in half precision
SHOWN = 4  # tensors named in a message


def read_encoder(folder: Path) -> PretrainedConfig:
    """The shape of the encoder in `folder`, whose weights fit it.

    Raises UserError where there is none, where the folder carries code or only pickled weights, and where its files
    are malformed or do not fit together.
    """
    _check_files(folder)
    content = _read_json(folder / CONFIG)
    shape = _shape(folder, content)
    _check_size(shape, folder)
    load_encoder(create_pretrained(shape), folder)
    return shape


def load_encoder(encoder: SampleEncoder | WhisperEncoder, folder: Path) -> None:
    """Put the weights of `folder` into an encoder of its shape, in place, as float32.

    Raises UserError where they do not fit, and where `read_encoder` would.
    """
    _check_files(folder)
    kind = encoder.shape.model_type
    renamed = {r"^(model\.)?encoder\.": ""} if kind is PretrainedKind.whisper else None
    be_quiet()
    try:
        found, told = model_class(kind).from_pretrained(
            str(folder),
            config=transformers_config(encoder.shape),
            key_mapping=renamed,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # a foreign file can fail in many ways
        raise UserError(f"The weights in {folder} cannot be read: {error}") from error
    weights = found.state_dict()
    wrong = sorted({*told["missing_keys"], *(key[0] for key in told["mismatched_keys"])})
    # Heads, quantizers and Whisper's decoder may be there, but a layer too many says that the settings are wrong.
    parts = "|".join(sorted({name.split(".")[0] for name in weights}))
    own = re.compile(rf"({found.base_model_prefix}\.)?({parts})\.")
    more = sorted(key for key in told["unexpected_keys"] if own.match(key))
    for tensors, what in ((wrong, "are missing or of another size"), (more, "of its encoder have no place in it")):
        if tensors:
            shown = ", ".join(tensors[:SHOWN]) + (", ..." if len(tensors) > SHOWN else "")
            raise UserError(
                f"The weights in {folder} are not those of its {CONFIG}: {len(tensors)} tensors {what} ({shown})."
            )
    if bad := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        raise UserError(f"The weights in {folder} are not finite, the first in {bad[0]}.")
    absent, _ = encoder.transformer.load_state_dict(weights, strict=False)
    assert all(map(is_of_adapter, absent)), absent


def _check_files(folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is no folder in Hugging Face format: it has no {CONFIG}.")
    if code := sorted(path.relative_to(folder) for path in folder.rglob("*.py")):
        raise UserError(
            f"{folder} carries code ({code[0]}). asr_fed runs no code of others: give settings and weights."
        )
    for name in (CONFIG, *PREPROCESSORS):
        if (folder / name).is_file() and "auto_map" in _read_json(folder / name):
            raise UserError(
                f"{folder / name} names code to be run (auto_map). asr_fed knows "
                f"{', '.join(kind.value for kind in PretrainedKind)}, and runs no code of others."
            )
    if (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} holds adapters of peft: give the folder of the encoder, with the adapters merged.")
    if not _weight_files(folder):
        pickled = next((path.name for ending in PICKLED for path in folder.glob(f"*.{ending}")), None)
        if pickled is not None:
            raise UserError(
                f"The weights in {folder} are pickled ({pickled}), which can hold code. Convert them to safetensors "
                "where you trust them: docs/pretrained_encoders.md has the line."
            )
        raise UserError(f"{folder} holds no weights: there is no {WEIGHTS}.")


def _weight_files(folder: Path) -> list[Path]:
    """Those that transformers reads: one, or else all that the index names; none where there is neither.

    Raises UserError for a malformed index. transformers reads whatever file it names, and unpickles it by its ending.
    """
    index = folder / INDEX
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not index.is_file():
        return []
    given = _read_json(index).get("weight_map")
    if not isinstance(given, dict) or not given:
        raise UserError(f"{index} is malformed: it has no weight_map, which says where each tensor is.")
    for name in given.values():
        if not isinstance(name, str) or Path(name).name != name or Path(name).suffix != ".safetensors":
            raise UserError(
                f"{index} names {name!r}: weights are read from files that lie beside it and end in .safetensors."
            )
        if not (folder / name).is_file():
            raise UserError(f"{folder} holds a part of its weights: {INDEX} names {name}, which is missing.")
    return [folder / name for name in sorted(set(given.values()))]


def _check_size(shape: PretrainedConfig, folder: Path) -> None:
    """Raises UserError where the weights cannot be those of an encoder of this shape, before one is built: a few lines
    of settings could ask for more memory than there is. `shape.parameters` leaves out biases and norms, and files may
    hold more than the encoder, so that no encoder that fits is refused."""
    size = sum(path.stat().st_size for path in _weight_files(folder))
    if size < LEAST_BYTES * shape.parameters:
        raise UserError(
            f"The weights in {folder} are not those of its {CONFIG}, which is of an encoder of {shape.parameters:,} "
            f"parameters or more: {size:,} bytes cannot hold them. Take both, whole, from one place."
        )


def _shape(folder: Path, content: dict[str, Any]) -> PretrainedConfig:
    known = {kind.value: kind for kind in PretrainedKind}
    given = content.get("model_type")
    kind = known.get(given) if isinstance(given, str) else None
    if kind is None:
        raise UserError(
            f"{folder / CONFIG} is of a {given}. Encoders of asr_fed are {', '.join(known)}."
            f"{nearest(str(given), list(known))}"
        )
    if other := [name for name in OTHER_MODELS if content.get(name)]:
        raise UserError(f"{folder / CONFIG} has {other[0]}={content[other[0]]}, which asr_fed does not build.")
    theirs, make, heard = names(kind), config_class(kind), _preprocessor(folder, kind)
    try:
        whole = make(**{name: content[name] for name in theirs.values() if name in content})
        values = {ours: _plain(getattr(whole, name)) for ours, name in theirs.items()}
        shape = typed(PretrainedConfig, {"model_type": kind.name, **values, **heard})
    except UserError as error:
        raise UserError(f"{folder / CONFIG} is malformed. {error}") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{folder / CONFIG} is malformed. {explain(error)}") from error
    except Exception as error:  # a foreign file can fail in many ways
        raise UserError(f"{folder / CONFIG} is malformed: {error}") from error
    check_shape(shape, str(folder / CONFIG))
    return shape


def _preprocessor(folder: Path, kind: PretrainedKind) -> dict[str, Any]:
    """`do_normalize` and `sampling_rate`."""
    if kind is PretrainedKind.whisper:
        return {"do_normalize": False, "sampling_rate": 16000}
    for name in PREPROCESSORS:
        if (folder / name).is_file():
            content = _read_json(folder / name)
            told = content.get("feature_extractor", content)
            if not isinstance(told, dict):
                raise UserError(f"{folder / name} is malformed: its feature_extractor holds no settings.")
            normalize, rate = told.get("do_normalize", True), told.get("sampling_rate", 16000)
            if not isinstance(normalize, bool) or not isinstance(rate, int):
                raise UserError(
                    f"{folder / name} is malformed: do_normalize={normalize!r} and sampling_rate={rate!r} should be "
                    "true or false, and a whole number."
                )
            return {"do_normalize": normalize, "sampling_rate": rate}
    raise UserError(
        f"{folder} has no {PREPROCESSORS[0]}, which says whether the encoder wants each utterance normalised: copy it "
        "from where the weights come from."
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is malformed: it holds no settings.")
    return content


def be_quiet() -> None:
    """No progress bars and no table of tensors: what does not fit is told in our words."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
