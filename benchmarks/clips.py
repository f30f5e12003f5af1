"""Training clips a CPU-second, decoding for WER included, with model=small on a Common Voice release.

    python benchmarks/clips.py ROOT [--clients 2] [--repetitions 3] [--profile]

ROOT is the folder of a language (clips/ and its .tsv files). hparams/cv_fr.yaml is prepared on it with its own local
epochs, batches, losses and augmentation: two speakers warm up, the others are dealt to `--clients` clients.
`train_client` is called as a worker calls it, one thread, features cached; the figure is the clips trained on (each
epoch counts them again) over the processor time of the call, which ends with the client's decoding. Three ways take
turns: the experiment as it stands (CTC and attention), CTC alone (loss.ctc_weight=1), and CTC alone with the 40 bands
every 20 ms of hparams/demo_fr.yaml. --profile prints where the time of the first goes.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import process_time

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from asr_fed.config.files import experiments_folder
from asr_fed.config.schema import Config

WAYS = {
    "CTC and attention, as in cv_fr.yaml": [],
    "CTC alone": ["loss.ctc_weight=1"],
    "CTC alone, 40 bands every 20 ms": ["loss.ctc_weight=1", "features.n_mels=40", "features.hop_ms=20"],
}


def client_work(folder: Path, root: Path, clients: int, changes: list[str]) -> Callable[[], int]:
    """Prepare a run in `folder`; returns a function that trains every client once and says on how many clips."""
    import torch

    from asr_fed.model.state import read_state
    from asr_fed.runs.experiment import prepare_experiment
    from asr_fed.runs.run_dir import begin_run, claim_run_dir
    from asr_fed.training.local import LocalTask, train_client

    torch.set_num_threads(1)
    settings = ["model=small", f"data.root={root}", f"run_dir={folder / 'run'}", f"data.prepared={folder}"]
    parts = ["data.parts.warm_up_speakers=2", "data.parts.held_out_speakers=0", f"federation.clients.count={clients}"]
    resolved = compose("cv_fr", [*settings, *parts, "device=cpu", *changes])
    config: Config = OmegaConf.to_object(resolved)  # type: ignore[assignment]
    with claim_run_dir(config), contextlib.redirect_stdout(io.StringIO()):
        experiment = prepare_experiment(config)
        begin_run(config)
    training = experiment.recognition(experiment.fresh_recogniser(), torch.device("cpu"))
    weights = read_state(training.recogniser.model)

    def work() -> int:
        for client in experiment.partition.clients:
            train_client(LocalTask(training, client, weights, 0.1, 1, config.seed, config.federation))
        return config.federation.local_epochs * sum(len(client.train) for client in experiment.partition.clients)

    return work


def print_profile(work: Callable[[], int]) -> None:
    """Processor time by operator of torch, and what Python adds, from one more call."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=40))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Training clips a CPU-second on Common Voice.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    ConfigStore.instance().store("schema", Config)
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        with initialize_config_dir(str(experiments_folder()), version_base="1.3"):
            works = {
                name: client_work(Path(folder) / str(number), arguments.root.resolve(), arguments.clients, changes)
                for number, (name, changes) in enumerate(WAYS.items())
            }
        for repetition in range(arguments.repetitions + 1):
            for name, work in works.items():
                started = process_time()
                clips = work()
                if repetition:  # the first warms up
                    rates[name].append(clips / (process_time() - started))
        if arguments.profile:
            print_profile(next(iter(works.values())))
    table = Table(title=f"Training clips a CPU-second: {clips} clips in {arguments.clients} clients, decoding included")
    for column in ("", "median", "min", "max"):
        table.add_column(column, justify="right" if column else "left")
    for name, values in rates.items():
        table.add_row(name, *(f"{value:.1f}" for value in (statistics.median(values), min(values), max(values))))
    Console().print(table)


if __name__ == "__main__":
    main()
