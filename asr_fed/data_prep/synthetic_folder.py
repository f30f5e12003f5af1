"""Generated corpora: a folder that is named after what decides its content, whole or absent, and the command line."""

import argparse
import ast
import hashlib
import inspect
import io
import json
import os
import shutil
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from asr_fed.data.manifest import Utterance, hours
from asr_fed.system.exit_status import exit_status


def digest(parameters: Mapping[str, object], generator: Iterable[str]) -> str:
    """Eight hex digits that change with the parameters and with the code of the files that generate."""
    code = [_code((Path(__file__).parent / name).read_text(encoding="utf-8")) for name in generator]
    return hashlib.sha256(json.dumps([parameters, code], sort_keys=True).encode()).hexdigest()[:8]


def _code(source: str) -> str:
    """Without comments, docstrings and empty lines: to explain the code better must not make corpora again.

    By lines, not by `ast.unparse`, which writes some strings differently in other versions of Python.
    """
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line, column = token.start
            lines[line - 1] = lines[line - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            for line in range(docstring.lineno - 1, docstring.end_lineno or docstring.lineno):
                lines[line] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())


@contextmanager
def made_once(folder: Path) -> Iterator[Path | None]:
    """An empty folder to fill, which becomes `folder` at the end; None where `folder` is there already.

    One process fills it at a time. What a killed one left is removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    with FileLock(folder.with_name(f".{folder.name}.lock")):  # let go when the process ends, however it ends
        if folder.is_dir():
            yield None
            return
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        os.rename(partial, folder)


def run_generator(
    module: str,
    description: str,
    prepare: Callable[..., list[Utterance]],
    meanings: Mapping[str, str],
    argv: Sequence[str] | None,
) -> int:
    """The command line of `prepare`, whose keywords become options with these meanings; returns the exit status."""
    parser = argparse.ArgumentParser(f"python -m {module}", description=description)
    parser.add_argument("root", help="the folder to hold the corpus")
    parser.add_argument("manifest", help="the manifest.csv to write")
    defaults = inspect.signature(prepare).parameters
    for name, meaning in meanings.items():
        default = defaults[name].default
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(default), default=default, help=f"{meaning} (default {default})")
    arguments = vars(parser.parse_args(argv))

    def run() -> None:
        utterances = prepare(arguments.pop("root"), arguments.pop("manifest"), **arguments)
        speakers = len({utterance.speaker for utterance in utterances})
        print(f"{len(utterances)} utterances, {hours(utterances):.2f} h, {speakers} speakers")

    return exit_status(module, run)
