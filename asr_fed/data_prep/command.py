"""The common command line of all corpora."""

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any

from asr_fed.data_prep.prepare import write_corpus
from asr_fed.system.exit_status import exit_status

OPTION_HELP = {
    "min_seconds": "drop shorter clips",
    "max_seconds": "drop longer clips",
    "min_kept": "stop where a smaller share of the rows is free of defects",
    "silence_db": "a clip that peaks below this (dB of full scale) is silent",
    "workers": "processes that decode, 0 for one a core",
    "digits": "refuse|keep, in place of the language's own rule for sentences with digits",
    "case": "lower|upper, in place of the language's own rule",
    "untranscribed": "keep rows whose text is empty, as speech without transcripts",
    "follow_links": "recordings may be links that lead out of the corpus folder",
}


def run_command(parser: argparse.ArgumentParser, prepare: Callable[..., Any], argv: Sequence[str] | None) -> int:
    """Add the shared options to a corpus's parser, call its `prepare`, and return the exit status."""
    parameters = inspect.signature(write_corpus).parameters
    for name, meaning in OPTION_HELP.items():
        default = parameters[name].default
        flag = f"--{name.replace('_', '-')}"
        shown = f" (default {default})" if default != "" and default is not False else ""
        how: dict[str, Any] = {"action": "store_true"} if default is False else {"type": type(default)}
        parser.add_argument(flag, default=argparse.SUPPRESS, help=meaning + shown, **how)
    arguments = vars(parser.parse_args(argv))

    def run() -> None:
        try:
            prepare(arguments.pop("root"), arguments.pop("manifest"), **arguments)
        except KeyboardInterrupt:
            print("Stopped. The clips measured so far are kept for the next run.", file=sys.stderr)
            raise

    return exit_status(parser.prog.removeprefix("python -m "), run)
