"""The runs of a recipe: those that have not ended yet, some at a time."""

import shlex
import subprocess
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from asr_fed.runs.summary import SUMMARY
from asr_fed.system.errors import UserError
from recipes.checking.recipe import Recipe, command, starts_from

PROJECT = Path(__file__).resolve().parents[2]


def execute(recipe: Recipe, runs: Path, jobs: int = 1) -> None:
    """Run whatever has not ended yet, `jobs` at a time; each tells what it does in `runs`/NAME.log.

    Raises UserError where a run fails. Those that are under way then come to their end, no other is started.
    """
    lines = recipe.accounts | recipe.runs  # seconds first, as soon as what they tell of is there
    waiting = {name: line for name, line in lines.items() if not (runs / name / SUMMARY).is_file()}
    if not waiting:
        return
    words = {name: _words(recipe, name, runs) for name in waiting}  # all, before any work
    runs.mkdir(parents=True, exist_ok=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    running: dict[Future[int], str] = {}
    with Progress(*columns, console=Console(stderr=True)) as bar, ThreadPoolExecutor(jobs) as pool:
        task = bar.add_task(recipe.folder.name, total=len(waiting))
        while waiting or running:
            ahead = waiting.keys() | set(running.values())
            ready = [name for name, line in waiting.items() if not starts_from(line) & ahead]
            for name in ready[: jobs - len(running)]:
                del waiting[name]
                bar.console.print(_shown(words[name]), soft_wrap=True, highlight=False, markup=False)
                running[pool.submit(_run, words[name], runs / f"{name}.log")] = name
            bar.update(task, description=f"{recipe.folder.name}: {', '.join(running.values())}")
            for ended in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(ended)
                if ended.result():
                    raise UserError(_failure(recipe, name, words[name], runs / f"{name}.log", ended.result()))
                bar.advance(task)


def _words(recipe: Recipe, name: str, runs: Path) -> list[str]:
    if name in recipe.accounts:
        return command(recipe.accounts[name], runs)
    resume = ["resume=true"] if (runs / name / "config.yaml").is_file() else []
    return [*command(recipe.runs[name], runs), f"run_dir={runs / name}", *resume]


def _shown(words: list[str]) -> str:
    return shlex.join(["python", *words])


def _run(words: list[str], log: Path) -> int:
    with log.open("w", encoding="utf-8") as file:
        return subprocess.run([sys.executable, *words], cwd=PROJECT, stdout=file, stderr=subprocess.STDOUT).returncode


def _failure(recipe: Recipe, name: str, words: list[str], log: Path, status: int) -> str:
    said = log.read_text(encoding="utf-8", errors="replace").rstrip().rpartition("\n")[2]
    what = f"{recipe.folder.name}: the run {name} ended with status {status}: {said}"
    return f"{what}\n  {_shown(words)}\n  more in {log}"
