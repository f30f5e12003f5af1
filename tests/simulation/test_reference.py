"""A machine as reference: times that add up, for the model that the config names."""

import torch

from asr_fed.simulation.reference import measure_machine
from tests.tiny import TINY_MODEL, typed_config


def test_a_step_and_audio_take_time_and_a_larger_model_has_more_parameters() -> None:
    config = typed_config({"features": {"n_mels": 16}, "model": TINY_MODEL})
    small = measure_machine(config, torch.device("cpu"), repetitions=1)
    assert small.step_seconds >= 0 and small.train_seconds > 0 and small.decode_seconds > 0
    assert small.step_seconds + small.train_seconds < 10
    config.model.dnn_neurons *= 4
    assert measure_machine(config, torch.device("cpu"), repetitions=1).parameters > small.parameters > 1000
