"""The command: `python -m asr_fed.transcribe MODEL AUDIO...`; see docs/transcription.md."""

import argparse
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from asr_fed.config.model import SEARCH
from asr_fed.config.schema import Decoder, EvaluationConfig
from asr_fed.system.errors import UserError
from asr_fed.system.exit_status import exit_status
from asr_fed.transcribe.recordings import find_recordings

SHORTEST_WINDOW = 1.0  # seconds


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 1 if a recording could not be read, 2 for an error that the user can fix before any work, 130 after
    Ctrl-C, 143 after SIGTERM.
    """
    parser = argparse.ArgumentParser(
        prog="python -m asr_fed.transcribe",
        description="Recordings to text. Of one recording the text is printed, of several each one's path, a tab and "
        "its text on a line.",
    )
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="a run directory, a checkpoint or a SpeechBrain folder"
    )
    parser.add_argument(
        "audio", type=Path, nargs="*", metavar="AUDIO", help="wav, flac, mp3, ogg, opus; or a folder of them"
    )
    parser.add_argument("--list", type=Path, metavar="FILE", help="a text file with a recording or folder a line")
    parser.add_argument("--json", action="store_true", help="print a line of JSON a recording, with times of words")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="add these lines to FILE instead; a recording that has one there already is not transcribed again",
    )
    parser.add_argument(
        "--decoder", default=Decoder.ctc_greedy.name, choices=[decoder.name for decoder in Decoder], help="%(default)s"
    )
    parser.add_argument(
        "--window",
        type=float,
        default=20.0,
        metavar="SECONDS",
        help="how much is recognised in one piece at most: a longer recording is cut in its pauses (%(default)g)",
    )
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="%(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU; by default torch decides")
    chosen = parser.parse_intermixed_args(arguments)  # options may stand between names
    if not SHORTEST_WINDOW <= chosen.window < float("inf"):
        parser.error(f"--window {chosen.window:g}: a number of seconds, at least {SHORTEST_WINDOW:g}")
    if chosen.threads is not None and chosen.threads < 1:
        parser.error(f"--threads {chosen.threads}: at least 1")

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    return exit_status("asr_fed.transcribe", lambda: _run(chosen))


def _run(chosen: argparse.Namespace) -> int:
    recordings = find_recordings(chosen.audio, chosen.list)

    import torch  # and all that follows: seconds that --help need not wait for

    from asr_fed.interop.open_recogniser import open_recogniser
    from asr_fed.model.state import read_state, state_sha256
    from asr_fed.runs.experiment import check_trained, evaluation_of, pick_device
    from asr_fed.runs.run_dir import run_of
    from asr_fed.transcribe.output import as_json, json_lines_file
    from asr_fed.transcribe.transcript import Transcript, transcribe

    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    device = pick_device(chosen.device)
    recogniser = open_recogniser(chosen.model)
    decoder, evaluation = Decoder[chosen.decoder], evaluation_of(chosen.model)
    # How much is decoded at once was chosen for the machine that trained.
    evaluation.max_seconds_per_batch = EvaluationConfig().max_seconds_per_batch
    check_trained(recogniser, decoder, evaluation.beam_ctc_weight, run_of(chosen.model))
    settings = {
        "weights_sha256": state_sha256(read_state(recogniser.model)),
        "decoder": chosen.decoder,
        "window": chosen.window,
    }
    if decoder is Decoder.beam:
        settings |= {name: value for name, value in vars(evaluation).items() if name.startswith(SEARCH)}
    recogniser.model.to(device)
    alone = len(recordings) == 1 and chosen.audio == recordings

    def show(transcript: Transcript) -> None:
        if chosen.json:
            print(as_json(transcript, settings), flush=True)
        else:
            print(transcript.text if alone else f"{transcript.path}\t{transcript.text}", flush=True)

    output: AbstractContextManager[tuple[set[str], Callable[[Transcript], None]]]
    output = json_lines_file(chosen.output, settings) if chosen.output else nullcontext((set(), show))
    failed = 0
    with output as (done, deliver):
        to_do = [path for path in recordings if str(path) not in done]
        if done:
            print(f"{len(recordings) - len(to_do)} of {len(recordings)} recordings were done before.", file=sys.stderr)
        with _progress(to_do) as (begin, advance):
            for path in to_do:
                begin(path)
                try:
                    transcript = transcribe(
                        recogniser,
                        path,
                        decoder=decoder,
                        config=evaluation,
                        window_seconds=chosen.window,
                        on_progress=advance,
                    )
                except UserError as error:
                    print(f"asr_fed.transcribe: {error}", file=sys.stderr)
                    failed += 1
                else:
                    deliver(transcript)
    if failed:
        print(f"asr_fed.transcribe: {failed} of {len(recordings)} recordings were not transcribed.", file=sys.stderr)
    return 1 if failed else 0


@contextmanager
def _progress(recordings: list[Path]) -> Iterator[tuple[Callable[[Path], None], Callable[[float], None]]]:
    """A progress bar in seconds of audio on stderr, if that is a terminal; yields functions to call with each recording
    and with seconds."""
    if not sys.stderr.isatty():
        yield lambda path: None, lambda seconds: None
        return

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from asr_fed.data.audio import audio_seconds

    total = 0.0
    for path in recordings:
        with suppress(UserError):  # reported when it is transcribed
            total += audio_seconds(path) if path.is_file() else 0.0  # a pipe can be read only once
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    with Progress(
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True, markup=False, emoji=False),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # printed lines go above the bar; into a file they go unchanged
    ) as bars:
        task = bars.add_task("", total=total)
        yield (
            lambda path: bars.update(task, description=path.name),
            lambda seconds: bars.advance(task, seconds),
        )
