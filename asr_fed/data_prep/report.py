"""What was dropped from a corpus and why: shown on the terminal, and kept as preparation.json."""

import json
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from asr_fed.data.manifest import Utterance, hours
from asr_fed.data_prep.locate import SHADOW

REPORT = "preparation.json"  # beside the manifest
UNNAMED = "not in the table"
EMPTY = "empty text"
RULES = (EMPTY, "refused text", "too short", "too long", SHADOW, UNNAMED)
SHOWN = 5  # names kept for each reason


def report(
    manifest: Path, dropped: Mapping[str, list[str]], utterances: list[Utterance], *, rows: int, written: bool
) -> None:
    """Show what was dropped and why, and keep it as preparation.json."""
    speakers = len({utterance.speaker for utterance in utterances})
    title = f"{rows} rows, {len(utterances)} kept, {hours(utterances):.2f} h, {speakers} speakers"
    untranscribed = sum(not utterance.text for utterance in utterances)
    if untranscribed:
        title += f", {untranscribed} of the rows kept have no transcript"
    table = Table("dropped", "because of a", "clips", f"first {SHOWN}", title=title, title_justify="left")
    reasons = {}
    for reason, names in sorted(dropped.items()):
        kind = "rule" if reason in RULES else "defect"
        reasons[reason] = {"kind": kind, "clips": len(names), "first": names[:SHOWN]}
        table.add_row(reason, kind, str(len(names)), Text(", ".join(names[:SHOWN])))
    Console(markup=False, emoji=False).print(table if dropped else f"{title}; nothing dropped")
    summary = {
        "manifest": manifest.name,
        "manifest_written": written,
        "rows": rows,
        "kept": len(utterances),
        "hours": round(hours(utterances), 4),
        "speakers": speakers,
        "untranscribed": untranscribed,
        "dropped": reasons,
    }
    text = json.dumps(summary, indent=2, ensure_ascii=False)
    manifest.with_name(REPORT).write_text(text + "\n", encoding="utf-8", errors="replace")
