"""Do two commits train the same weights, in every bit? The proof that a change of structure changes nothing else.

    python scripts/same_weights.py main            # main against the working tree
    python scripts/same_weights.py v0.1.0 HEAD     # two commits
    python scripts/same_weights.py main -- model=small federation.rounds=3

Each side runs a small federation of the demo corpus twice: with two workers, and with one worker that is killed
(SIGKILL) after its first round and resumed. Prints the four hashes; exit status 0 where all are equal, 1 where not.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENT = (
    *("hparams/demo_fr.yaml", "warm_start.epochs=2", "federation.rounds=2", "federation.local_epochs=1"),
    *("central.after_federation=false", "evaluation.test_decoder=ctc_greedy", "engine.threads_per_worker=1"),
)
PATIENCE = 1800  # seconds for one run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", help="a commit")
    parser.add_argument("after", nargs="?", help="a commit; the working tree where it is left out")
    parser.add_argument("overrides", nargs="*", help="behind --: settings of the experiment, the same for both")
    arguments, overrides = split(sys.argv[1:])
    chosen = parser.parse_args(arguments)
    hashes: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, commit in (("before", chosen.before), ("after", chosen.after)):
            with checkout(commit, Path(folder) / name) as tree:
                hashes |= {f"{name}, {how}": weights for how, weights in run_both(tree, Path(folder), name, overrides)}
    for name, weights in hashes.items():
        print(f"{weights}  {name}")
    same = len(set(hashes.values())) == 1
    print("The weights are the same." if same else "The weights differ.")
    return 0 if same else 1


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before and behind --."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return list(arguments[:at]), list(arguments[at + 1 :])


@contextmanager
def checkout(commit: str | None, folder: Path) -> Iterator[Path]:
    """A work tree of that commit, removed again; the present one for None."""
    if commit is None:
        yield ROOT
        return
    git = ("git", "-C", str(ROOT), "worktree")
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def run_both(tree: Path, folder: Path, name: str, overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    # One corpus for all: its generator is not what is compared here.
    shared = [f"data.prepared={folder / 'prepared'}", *overrides]
    whole, killed = folder / f"{name}-whole", folder / f"{name}-killed"
    run(tree, [*shared, f"run_dir={whole}", "engine.workers=2"])
    yield "two workers", weights_of(whole)
    run(tree, [*shared, f"run_dir={killed}", "engine.workers=1"], kill_after=killed / "history.jsonl")
    run(tree, [*shared, f"run_dir={killed}", "engine.workers=1", "resume=true"])
    yield "killed and resumed", weights_of(killed)


def run(tree: Path, overrides: Sequence[str], kill_after: Path | None = None) -> None:
    """Run the experiment with the code in `tree`; kill it as soon as the file `kill_after` is there."""
    command = [sys.executable, "train_fed.py", *EXPERIMENT, *overrides]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, cwd=tree, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            if kill_after is not None and kill_after.is_file():
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return
            time.sleep(0.05)
        if process.returncode != 0:
            process.kill()
            log.seek(0)
            raise SystemExit(f"{' '.join(command)} in {tree} failed:\n{log.read()[-3000:]}")


def weights_of(run_dir: Path) -> str:
    return str(json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))["weights_sha256"])


if __name__ == "__main__":
    sys.exit(main())
