"""What a recogniser hears in speech without transcripts: how sure it is, and what passes the filters."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from asr_fed.config.schema import AugmentConfig, Decoder, PseudoLabelsConfig
from asr_fed.data.batching import collate
from asr_fed.data.features import add_speeds
from asr_fed.data.tokenizer import BLANK
from asr_fed.runs.experiment import Experiment
from asr_fed.tasks.hypotheses import Hypothesis, confidences, hypotheses, is_good, likeness, with_more_drops
from asr_fed.tasks.recognition import Recognition
from tests.tiny import talk

ALL = PseudoLabelsConfig(every=1, min_confidence=0.0, min_rate=0.0, max_rate=1000.0)


@pytest.fixture
def talkative(context: Recognition) -> Recognition:
    talk(context.model)
    return context


def test_confidence_is_the_probability_of_all_alignments_per_token() -> None:
    generator = torch.Generator().manual_seed(1)
    log_probs = torch.randn(2, 4, 3, generator=generator).log_softmax(-1)
    counts, tokens = torch.tensor([4, 3]), [[1, 2], [2, 2]]
    found = confidences(log_probs, counts, tokens)
    for row, count, said, confidence in zip(log_probs, counts, tokens, found, strict=True):
        total = 0.0
        for path in itertools.product(range(3), repeat=int(count)):
            merged = [label for label, _ in itertools.groupby(path) if label != BLANK]
            if merged == said:
                total += float(np.exp(sum(float(row[time, label]) for time, label in enumerate(path))))
        assert confidence == pytest.approx(total ** (1 / len(said)), rel=1e-5)
    assert confidences(log_probs, counts, [[1, 1, 1], [2]])[0] == 0.0  # three equal tokens need five states


@pytest.mark.parametrize(
    ("change", "hypothesis", "good"),
    [
        ({}, Hypothesis("ba du", 0.5), True),
        ({"min_confidence": 0.51}, Hypothesis("ba du", 0.5), False),
        ({"min_agreement": 0.9}, Hypothesis("ba du", 0.5, 0.8), False),
        ({"min_agreement": 0.8}, Hypothesis("ba du", 0.5, 0.8), True),
        ({"min_rate": 3.0}, Hypothesis("ba du", 0.5), False),  # 2.5 characters per second
        ({"max_rate": 2.0}, Hypothesis("ba du", 0.5), False),
        ({"min_rate": 0.0}, Hypothesis("", 1.0), False),
        ({"min_confidence": 0.0}, Hypothesis("ba du", 0.0), False),  # CTC cannot align it
    ],
)
def test_each_filter_turns_away(change: dict[str, float], hypothesis: Hypothesis, good: bool) -> None:
    assert is_good(hypothesis, 2.0, replace(ALL, **change)) is good


def test_a_hypothesis_depends_neither_on_its_batch_nor_on_a_transcript(
    talkative: Recognition, experiment: Experiment
) -> None:
    speech = experiment.partition.warm_up
    together = hypotheses(talkative, speech, ALL)
    assert len({each.text for each in together.values()}) > 1 and all(0 < e.confidence < 1 for e in together.values())
    for utterance in speech[:3]:
        alone = hypotheses(talkative, [replace(utterance, text="")], ALL)[utterance.id]
        assert alone.text == together[utterance.id].text
        assert alone.confidence == pytest.approx(together[utterance.id].confidence, rel=1e-3)


def test_any_decoder_may_make_it_and_ctc_says_how_sure_it_is(context: Recognition, experiment: Experiment) -> None:
    speech, settings = experiment.partition.warm_up[:3], replace(ALL, decoder=Decoder.attention_greedy)
    found = hypotheses(context, speech, settings)
    heard = context.decode(speech, Decoder.attention_greedy).hypotheses
    assert {name: each.text for name, each in found.items()} == heard
    model, encode = context.model, context.recogniser.tokenizer.encode
    for utterance in speech:
        states, counts = model.encode(collate([utterance], context.cache, context.recogniser.tokenizer))
        expected = confidences(model.ctc_log_probs(states), counts, [encode(heard[utterance.id])])[0]
        assert found[utterance.id].confidence == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_agreement_is_with_the_least_alike_hypothesis_at_another_speed(
    talkative: Recognition, experiment: Experiment
) -> None:
    speech, speeds = experiment.partition.warm_up[:4], (0.8, 1.0, 1.2)
    cache = add_speeds(experiment.cache, speech, speeds, experiment.config.features, processes=1)
    training = replace(talkative, cache=cache, augment=AugmentConfig(speeds=list(speeds)))
    heard = {}
    for speed in speeds:
        at_speed = {(each.id, 1.0): cache[each.id, speed] for each in speech}
        played = replace(training, cache=Played(at_speed))  # type: ignore[arg-type]
        heard[speed] = {name: each.text for name, each in hypotheses(played, speech, ALL).items()}
    found = hypotheses(training, speech, replace(ALL, min_agreement=0.5))
    for name, each in found.items():
        others = [likeness(heard[1.0][name], heard[speed][name]) for speed in (0.8, 1.2)]
        assert (each.text, each.agreement) == (heard[1.0][name], min(others))
    assert {each.agreement for each in found.values()} != {1.0}
    assert {each.agreement for each in hypotheses(training, speech, ALL).values()} == {1.0}  # not compared


class Played(dict[tuple[str, float], np.ndarray]):
    """Features by utterance and speed."""


@pytest.mark.parametrize(("text", "other", "alike"), [("abcd", "abcx", 0.75), ("ab", "xyzabw", 0.0), ("", "", 0.0)])
def test_likeness_counts_characters(text: str, other: str, alike: float) -> None:
    assert likeness(text, other) == alike


def test_more_drops_are_more_of_the_same_width() -> None:
    augment = AugmentConfig(speeds=[0.9, 1.0], time_drops=3, least_frequency_drops=1, time_drop_frames=7)
    stronger = with_more_drops(augment, 2.5)
    assert (stronger.time_drops, stronger.frequency_drops, stronger.least_frequency_drops) == (8, 5, 2)
    assert replace(stronger, time_drops=3, frequency_drops=2, least_frequency_drops=1) == augment
