"""Which weight CTC should have in the joint beam search: WER over weights, on dev and test, of finished runs.

    python benchmarks/beam_weight.py silos=RUN,RUN,RUN pooled=RUN,RUN,RUN [--weights .3 .4 .5] [--plot FILE]

Each name stands for a row, the mean of its runs, with their last system (federated, or central). Choose the weight
(`evaluation.beam_ctc_weight`) on dev; test is shown beside it, to see whether the choice holds.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

Curves = dict[tuple[str, str], list[float]]  # row, part of the speech -> mean WER in percent, for each weight


def word_error_rates(run_dir: Path, weights: Sequence[float]) -> dict[str, list[float]]:
    """Percent, for dev and test, for each weight."""
    from asr_fed.config.schema import Decoder, EvaluationConfig
    from asr_fed.evaluation.evaluate import evaluate
    from asr_fed.model.recogniser import load_recogniser
    from asr_fed.runs.experiment import open_experiment, systems

    experiment = open_experiment(run_dir)
    recogniser = load_recogniser(experiment.checkpoints / f"{systems(experiment.config)[-1]}.pt")
    parts = {"dev": experiment.partition.dev, "test": experiment.partition.test}
    settings = [
        EvaluationConfig(beam_size=experiment.config.evaluation.beam_size, beam_ctc_weight=weight) for weight in weights
    ]
    cpu = torch.device("cpu")
    return {
        part: [evaluate(recogniser, speech, experiment.cache, Decoder.beam, each, cpu).wer for each in settings]
        for part, speech in parts.items()
    }


def draw(curves: Curves, weights: Sequence[float], path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    colours = {row: f"C{place}" for place, row in enumerate(dict.fromkeys(row for row, _ in curves))}
    for (row, part), errors in curves.items():
        style = "-" if part == "dev" else "--"
        axes.plot(weights, errors, style, marker="o", color=colours[row], label=f"{row}, {part}")
    axes.set(xlabel="weight of CTC in the joint beam", ylabel="WER %")
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description="WER over the weight of CTC in the joint beam search.")
    parser.add_argument("rows", nargs="+", metavar="NAME=RUN,RUN", help="a row and the run directories it averages")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    parser.add_argument("--plot", type=Path, help="a PNG or SVG file")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    curves: Curves = {}
    for row in chosen.rows:
        name, _, runs = row.partition("=")
        measured = [word_error_rates(Path(run), chosen.weights) for run in track(runs.split(","), name, transient=True)]
        for part in ("dev", "test"):
            curves[name, part] = [mean(errors) for errors in zip(*(each[part] for each in measured), strict=True)]
    table = Table(title="WER %, mean of the runs", title_justify="left")
    for column in ("weight of CTC", *(f"{weight:g}" for weight in chosen.weights)):
        table.add_column(column, justify="left" if column == "weight of CTC" else "right")
    for (row, part), errors in curves.items():
        table.add_row(f"{row}, {part}", *(f"{each:.1f}" for each in errors))
    Console().print(table)
    if chosen.plot:
        draw(curves, chosen.weights, chosen.plot)


if __name__ == "__main__":
    main()
