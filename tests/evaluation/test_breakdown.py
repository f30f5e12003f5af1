"""Who is served how well, by hand."""

import pytest

from asr_fed.data.manifest import Utterance
from asr_fed.evaluation.breakdown import Group, by_group, by_length, confusions, speaker_spread
from asr_fed.evaluation.evaluate import Evaluation
from asr_fed.evaluation.wer import ErrorCounts, score


def said(*rows: tuple[str, str, str, str]) -> Evaluation:
    """Rows of speaker, gender, what was said, what was heard."""
    utterances = [
        Utterance(f"u{number}", 1.0, "", speaker, text, gender=gender)
        for number, (speaker, gender, text, _) in enumerate(rows)
    ]
    return Evaluation(score(utterances, [row[3] for row in rows]))


def test_groups_are_the_values_of_a_column_and_the_unknown_come_last() -> None:
    evaluation = said(
        ("a", "", "one two", "one"),
        ("b", "male", "one two", "one two"),
        ("c", "female", "one two", "one ten"),
        ("c", "female", "one", "one"),
    )
    assert by_group(evaluation) == {
        "gender": [
            Group("female", 1, 2, ErrorCounts(substitutions=1, units=3)),
            Group("male", 1, 1, ErrorCounts(units=2)),
            Group("unknown", 1, 1, ErrorCounts(deletions=1, units=2)),
        ]
    }
    assert by_group(said(("a", "male", "one", "one"))) == {}, "a column with one value tells nobody apart"


def test_lengths_cover_every_utterance_once() -> None:
    evaluation = said(
        *(("a", "", " ".join(["x"] * words), "x") for words in (1, 2, 3, 5, 6, 9, 10, 14, 15, 19, 20, 70))
    )
    groups = by_length(evaluation)
    assert [(group.name, group.utterances) for group in groups] == [
        *(("1 to 2", 2), ("3 to 5", 2), ("6 to 9", 2), ("10 to 14", 2), ("15 to 19", 2), ("20 or more", 2)),
    ]
    assert sum(group.words.units for group in groups) == evaluation.words.units


def test_confusions_are_counted_and_ranked() -> None:
    found = confusions(said(("a", "", "f f s", "s s"), ("b", "", "f m", "s m z"), ("b", "", "m", "n")))
    assert found == {"substitutions": [("f > s", 2), ("m > n", 1)], "deletions": [("f", 1)], "insertions": [("z", 1)]}


def test_the_spread_over_speakers() -> None:
    rows = [(f"s{number:02}", "", " ".join(["x"] * 10), " ".join(["x"] * (10 - number % 10))) for number in range(20)]
    spread = speaker_spread(said(*rows))
    assert (spread.best, spread.median, spread.worst) == (0, 45, 90)
    assert spread.worst_decile == 90  # the two worst of twenty
    assert 0 < spread.gini < 1
    same = speaker_spread(said(("a", "", "x", "y"), ("b", "", "x", "y")))
    assert same.gini == pytest.approx(0) and same.worst_decile == 100
