"""Error rates by hand, and counts that add up."""

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_fed.config.schema import Decoder
from asr_fed.data.manifest import Utterance
from asr_fed.evaluation.evaluate import Evaluation, evaluate
from asr_fed.evaluation.wer import ErrorCounts, Step, character_errors, score, total
from asr_fed.runs.experiment import Experiment
from asr_fed.tasks.recognition import Recognition

sentences = st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=6).map(" ".join), min_size=1, max_size=5)


def spoken(*texts: str) -> list[Utterance]:
    return [Utterance(f"u{number}", 1.0, "", f"s{number % 2}", text) for number, text in enumerate(texts)]


def test_words_by_hand() -> None:
    scored = score(spoken("the cat sat on the mat", "yes"), ["the bat sat the mat now", ""])
    counts = total(each.words for each in scored)
    assert counts == ErrorCounts(substitutions=1, deletions=2, insertions=1, units=7)
    assert counts.errors == 4
    assert counts.rate == pytest.approx(4 / 7)
    assert counts.percent == pytest.approx(400 / 7)


def test_an_alignment_names_both_words_of_each_step() -> None:
    (scored,) = score(spoken("the cat sat on the mat"), ["the bat sat the mat now"])
    assert scored.alignment == (
        Step("=", 0, 0),
        Step("S", 1, 1),
        Step("=", 2, 2),
        Step("D", 3, None),
        Step("=", 4, 3),
        Step("=", 5, 4),
        Step("I", None, 5),
    )


def test_characters_by_hand() -> None:
    assert character_errors("abc d", "abxx d") == ErrorCounts(substitutions=1, insertions=1, units=5)


def test_a_rate_may_exceed_one_and_nothing_is_no_error() -> None:
    assert score(spoken("a"), ["b c d"])[0].words.rate == 3.0
    assert score([], []) == () and Evaluation(()).words == ErrorCounts() == Evaluation(()).characters
    assert ErrorCounts().rate == 0.0
    with pytest.raises(ValueError, match="zip|shorter|argument|texts|utterances"):
        score(spoken("a", "b"), ["a"])


@given(sentences, st.integers(0, 5))
def test_counts_of_parts_add_up_to_those_of_the_whole(references: list[str], cut: int) -> None:
    scored = score(spoken(*references), [text[::-1] for text in references])
    whole = Evaluation(scored)
    parts = Evaluation(scored[:cut]).words + Evaluation(scored[cut:]).words
    assert whole.words == parts == total(whole.speakers.values())
    assert whole.words.units == sum(len(text.split()) for text in references)
    assert whole.words.deletions == whole.words.insertions
    output = jiwer.process_words(references, [text[::-1] for text in references])
    assert whole.words.errors == output.substitutions + output.deletions + output.insertions


def test_speakers_are_counted_apart() -> None:
    counts = Evaluation(score(spoken("a b", "a", "c"), ["a b", "b", "c d"])).speakers
    assert counts == {"s0": ErrorCounts(insertions=1, units=3), "s1": ErrorCounts(substitutions=1, units=1)}


def test_an_evaluation_covers_every_utterance_whatever_the_batches(
    experiment: Experiment, context: Recognition
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
