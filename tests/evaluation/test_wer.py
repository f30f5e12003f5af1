"""Error rates by hand, and counts that add up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_fed.config.schema import Decoder
from asr_fed.evaluation.evaluate import evaluate
from asr_fed.evaluation.wer import ErrorCounts, by_speaker, character_errors, word_errors
from asr_fed.experiment import Experiment
from asr_fed.training.epoch import TrainingContext

sentences = st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=6).map(" ".join), min_size=1, max_size=5)


def test_words_by_hand() -> None:
    counts = word_errors(["the cat sat on the mat", "yes"], ["the bat sat the mat now", ""])
    assert counts == ErrorCounts(substitutions=1, deletions=2, insertions=1, units=7)
    assert counts.errors == 4
    assert counts.rate == pytest.approx(4 / 7)
    assert counts.percent == pytest.approx(400 / 7)


def test_characters_by_hand() -> None:
    assert character_errors(["abc d"], ["abxx d"]) == ErrorCounts(substitutions=1, insertions=1, units=5)


def test_a_rate_may_exceed_one_and_nothing_is_no_error() -> None:
    assert word_errors(["a"], ["b c d"]).rate == 3.0
    assert word_errors([], []) == ErrorCounts() == character_errors([], [])
    assert ErrorCounts().rate == 0.0


@given(sentences, st.integers(0, 5))
def test_counts_of_parts_add_up_to_those_of_the_whole(references: list[str], cut: int) -> None:
    hypotheses = [text[::-1] for text in references]
    whole = word_errors(references, hypotheses)
    parts = word_errors(references[:cut], hypotheses[:cut]) + word_errors(references[cut:], hypotheses[cut:])
    assert whole == parts
    assert whole.units == sum(len(text.split()) for text in references)
    assert whole.deletions == whole.insertions


def test_speakers_are_counted_apart() -> None:
    counts = by_speaker(["x", "y", "x"], ["a b", "a", "c"], ["a b", "b", "c d"])
    assert counts == {"x": ErrorCounts(insertions=1, units=3), "y": ErrorCounts(substitutions=1, units=1)}
    with pytest.raises(ValueError):
        by_speaker(["x"], ["a", "b"], ["a", "b"])


def test_an_evaluation_covers_every_utterance_whatever_the_batches(
    experiment: Experiment, context: TrainingContext
) -> None:
    speech, config = experiment.partition.test, experiment.config.evaluation
    told: list[int] = []
    whole = evaluate(
        context.recogniser, speech, context.cache, Decoder.ctc_greedy, config, context.device, on_batch=told.append
    )
    config = type(config)(max_seconds_per_batch=0.5)
    single = evaluate(context.recogniser, speech[::-1], context.cache, Decoder.ctc_greedy, config, context.device)
    assert sum(told) == len(speech)
    assert whole.hypotheses == single.hypotheses and whole.hypotheses.keys() == {u.id for u in speech}
    assert (whole.words, whole.characters, whole.speakers) == (single.words, single.characters, single.speakers)
    assert whole.words.units == sum(len(u.text.split()) for u in speech)
    assert whole.speakers.keys() == {u.speaker for u in speech}
    assert whole.wer == whole.words.percent and whole.cer == whole.characters.percent
