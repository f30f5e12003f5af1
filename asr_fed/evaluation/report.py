"""report.html: a run on one self-contained page."""

import base64
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from asr_fed.data.manifest import Utterance
from asr_fed.evaluation.evaluate import Evaluation

SAMPLES = 12
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
td, th { padding: .25rem .75rem; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child { text-align: left }
img { max-width: 100% } pre { overflow-x: auto; background: #f6f6f6; padding: 1rem }
"""


def write_report(
    path: Path,
    summary: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    evaluations: Mapping[str, Evaluation],
    test: Sequence[Utterance],
    config: str,
) -> None:
    """Headline table, curves, errors by speaker, sample hypotheses and the config; no network is needed to read it."""
    names = [name.replace("_", " ") for name in evaluations]
    keys = ("substitutions", "deletions", "insertions", "words")
    headline = _table(
        ["", "WER %", "CER %", *keys],
        (
            [name, f"{system['wer']:.2f}", f"{system['cer']:.2f}", *(system[key] for key in keys)]
            for name, system in zip(names, summary["systems"].values(), strict=True)
        ),
    )
    speakers = _table(
        ["speaker", *(f"{name}, WER %" for name in names)],
        (
            [speaker[:16], *(f"{e.speakers[speaker].percent:.1f}" for e in evaluations.values())]
            for speaker in sorted({utterance.speaker for utterance in test})
        ),
    )
    samples = "".join(
        _table(
            [utterance.id, utterance.text],
            ([name, e.hypotheses[utterance.id]] for name, e in zip(names, evaluations.values(), strict=True)),
        )
        for utterance in test[:: max(1, len(test) // SAMPLES)][:SAMPLES]
    )
    sections = {
        "": headline,
        "Rounds": _curves(history) if history else "",
        "Test speakers": speakers,
        "What was heard": samples,
        "Numbers": f"<pre>{html.escape(json.dumps(summary, indent=2))}</pre>",
        "Config": f"<pre>{html.escape(config)}</pre>",
    }
    body = "".join(f"<h2>{title}</h2>{content}" for title, content in sections.items() if content)
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(path.parent.name)}</title><style>{STYLE}</style>"
        f"<h1>{html.escape(path.parent.name)}: test WER {summary['test_wer']:.2f} %</h1>{body}</html>\n",
        encoding="utf-8",
    )


def _table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    def line(tag: str, cells: Iterable[Any]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line('th', head)}{''.join(line('td', row) for row in rows)}</table>"


def _curves(history: Sequence[Mapping[str, Any]]) -> str:
    """Dev WER, clients' loss and learning rate over rounds, as an embedded picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, (key, title) in zip(
        figure.subplots(1, 3), (("wer", "dev WER %"), ("loss", "clients' loss"), ("lr", "learning rate")), strict=True
    ):
        points = [(record["round"], record[key]) for record in history if record[key] is not None]
        axes.plot(*zip(*points, strict=True), marker=".")
        axes.set(title=title, xlabel="round")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    encoded = base64.b64encode(picture.getvalue()).decode()
    return f'<img alt="dev WER, loss and learning rate over rounds" src="data:image/png;base64,{encoded}">'
