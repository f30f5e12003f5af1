"""Options that stand for a setting: its type and its range."""

import argparse

import pytest

from asr_fed.commands.options import number_for
from asr_fed.config.schema import EvaluationConfig, PersonalisationConfig


@pytest.mark.parametrize(
    ("name", "text", "number"),
    [("beam_size", "1", 1), ("beam_ctc_weight", "1", 1.0), ("beam_ctc_weight", "0", 0.0)],
)
def test_what_a_setting_may_be_is_read(name: str, text: str, number: float) -> None:
    assert repr(number_for(EvaluationConfig, name)(text)) == repr(number)


@pytest.mark.parametrize(
    ("settings", "name", "text", "told"),
    [
        (EvaluationConfig, "beam_size", "0", "0 is not possible: it must be at least 1"),
        (EvaluationConfig, "beam_size", "2.5", "2.5 is not a whole number"),
        (EvaluationConfig, "beam_ctc_weight", "1.1", "it must be at least 0 and at most 1"),
        (EvaluationConfig, "beam_ctc_weight", "nan", "it must be at least 0 and at most 1"),
        (PersonalisationConfig, "lr", "0", "it must be above 0"),
        (PersonalisationConfig, "lr", "fast", "fast is not a number"),
    ],
)
def test_what_it_may_not_be_is_told(settings: type, name: str, text: str, told: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=told):
        number_for(settings, name)(text)
