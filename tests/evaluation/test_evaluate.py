"""Everything that was said counts, whatever was heard."""

import torch

from asr_fed.config.schema import Decoder, EvaluationConfig
from asr_fed.data.tokenizer import BLANK
from asr_fed.evaluation.evaluate import evaluate
from asr_fed.runs.experiment import Experiment


def test_what_was_not_heard_at_all_counts_as_all_its_words(experiment: Experiment) -> None:
    """By a recogniser that hears nothing but blanks."""
    recogniser, speech = experiment.fresh_recogniser(), experiment.partition.warm_up
    with torch.no_grad():
        recogniser.model.ctc_head.w.bias[BLANK] = 1000.0
    device, settings = torch.device("cpu"), EvaluationConfig()
    found = evaluate(recogniser, speech, experiment.cache, Decoder.ctc_greedy, settings, device)
    assert [each.utterance for each in found.scored] == list(speech)
    assert set(found.hypotheses.values()) == {""}
    words = sum(len(utterance.text.split()) for utterance in speech)
    assert (found.words.deletions, found.words.units, found.wer, found.cer) == (words, words, 100.0, 100.0)
