"""report.html: a run on one self-contained page, which can be read without a network, and printed."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from asr_fed.carbon.account import Account
from asr_fed.data.audio import read_audio
from asr_fed.data.manifest import Utterance
from asr_fed.data.partition import Partition
from asr_fed.data.partition_files import summarise
from asr_fed.evaluation.breakdown import by_group, by_length, confusions
from asr_fed.evaluation.evaluate import Evaluation
from asr_fed.evaluation.wer import Scored
from asr_fed.reporting.carbon import carbon_section
from asr_fed.reporting.figures import hours_figure, interval_figure, round_figures, speaker_figure
from asr_fed.reporting.page import render
from asr_fed.reporting.simulation import fleet_section
from asr_fed.runs.records import RoundRecord
from asr_fed.runs.summary import GainsSummary, RunSummary
from asr_fed.system.errors import UserError
from asr_fed.system.files import replacing

SAMPLES = 12
CLIP_SECONDS = 15.0  # longer recordings have no player
CLIP_RATE = 16000
CLIP_BYTES = 200_000  # of one recording; all together are at most `report_clips` times as large
COMMON = 10  # confusions of each kind
TOO_MANY_SPEAKERS = 60  # for a table with one row per speaker


@dataclass(frozen=True)
class Sample:
    """A test utterance: speaker, reference, data URI of the player or None, and the hypothesis of each recogniser as
    HTML."""

    utterance: Utterance
    audio: str | None
    heard: dict[str, Markup]


def write_report(
    run_dir: Path,
    summary: RunSummary,
    history: Sequence[RoundRecord],
    evaluations: Mapping[str, Evaluation],
    partition: Partition,
    *,
    clips: int,
    account: Account | None = None,
) -> None:
    """report.html in the run directory; the config in it is that of config.yaml.

    Args:
        evaluations: of the same test speakers, by recogniser.
        clips: how many recordings can be listened to.
        account: of what the run would emit, where it has one.
    """
    own = summary.own
    wers = {
        name: {speaker: counts.percent for speaker, counts in evaluation.speakers.items()}
        for name, evaluation in evaluations.items()
    }
    before = "warm_start" if "warm_start" in wers and own != "warm_start" else None
    client_seconds = [client.seconds for client in partition.clients]
    text = render(
        "report.html.j2",
        name=run_dir.name,
        summary=summary,
        own=own,
        intervals=interval_figure(summary.systems),
        rounds=round_figures(history) if history else {},
        failures=sum(len(record.failures) for record in history),
        hypotheses=history[-1] if history and history[-1].untranscribed else None,
        partition=summarise(partition),
        hours=hours_figure(client_seconds) if client_seconds else None,
        speakers=speaker_figure(wers[before], wers[own], (before, own)) if before else None,
        speaker_wers=wers if len(wers[own]) <= TOO_MANY_SPEAKERS else None,
        groups=by_group(evaluations[own]) | {"words in the utterance": by_length(evaluations[own])},
        confusions={kind: common[:COMMON] for kind, common in confusions(evaluations[own]).items()},
        samples=samples(evaluations, own, clips),
        carbon=carbon_section(account, summary) if account else None,
        gains=describe_gains(summary.personalisation) if summary.personalisation else None,
        fleet=fleet_section(run_dir, summary.simulation, history),
        config=(run_dir / "config.yaml").read_text(encoding="utf-8"),
    )
    with replacing(run_dir / "report.html") as path:
        path.write_text(text, encoding="utf-8")


def describe_gains(gains: GainsSummary) -> str:
    """The summary of personalisation in one line."""
    few, failed = gains.too_little_speech, len(gains.failures)
    left_out = (f"; {few} had too little speech to hold some back" if few else "") + (
        f"; {failed} failed" if failed else ""
    )
    if not gains.words:
        return f"Nobody personalised ({gains.part}){left_out}."
    return (
        f"Personalised ({gains.part}): WER on speech that clients held back "
        f"{gains.wer_before:.2f} before, {gains.wer_after:.2f} after; better for "
        f"{gains.better} of {gains.clients} clients, worse for "
        f"{gains.worse}{left_out}."
    )


def samples(evaluations: Mapping[str, Evaluation], own: str, clips: int) -> list[Sample]:
    """Utterances evenly spread from the lowest to the highest WER; `clips` of them with a player."""
    ranked = sorted(evaluations[own].scored, key=lambda each: (each.words.rate, each.utterance.id))
    chosen = _evenly(ranked, SAMPLES)
    heard = {name: {each.utterance.id: each for each in e.scored} for name, e in evaluations.items()}
    players = {each.utterance.id for each in _evenly(chosen, clips)}
    return [
        Sample(
            each.utterance,
            _player(each.utterance) if each.utterance.id in players else None,
            {name: marked(by_id[each.utterance.id]) for name, by_id in heard.items()},
        )
        for each in chosen
    ]


def marked(scored: Scored) -> Markup:
    """The hypothesis with marked errors: <b> a wrong word, <ins> an inserted word, <del> a missing word."""
    said, heard = scored.utterance.text.split(), scored.hypothesis.split()
    parts = []
    for step in scored.alignment:
        word = html.escape(heard[step.hypothesis] if step.hypothesis is not None else said[step.reference or 0])
        tag = {"S": "b", "I": "ins", "D": "del"}.get(step.mark)
        parts.append(f"<{tag}>{word}</{tag}>" if tag else word)
    return Markup(" ".join(parts))


def _evenly(items: Sequence[Scored], count: int) -> list[Scored]:
    if count <= 1 or len(items) <= count:
        return list(items[:count])
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _player(utterance: Utterance) -> str | None:
    """The recording as MP3 in a data URI; None if it is too long, or has been removed."""
    import soundfile

    if utterance.duration > CLIP_SECONDS:
        return None
    try:
        signal = read_audio(utterance.wav, CLIP_RATE)
    except UserError:
        return None
    recording = io.BytesIO()
    soundfile.write(recording, signal.numpy(), CLIP_RATE, format="MP3")
    if recording.tell() > CLIP_BYTES:
        return None
    return f"data:audio/mpeg;base64,{base64.b64encode(recording.getvalue()).decode()}"
