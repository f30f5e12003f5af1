"""Each stage of a run works by its own settings, and draws its own random numbers."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asr_fed.config.schema import Decoder, ReferenceConfig, Start
from asr_fed.model.recogniser import load_recogniser, save_recogniser
from asr_fed.model.state import read_state
from asr_fed.pipeline.train import reference
from asr_fed.reporting.progress import RunProgress
from asr_fed.runs.experiment import Experiment
from tests.pipeline.recording import Recording

# By stage: optimizer, learning rate, largest norm of a gradient, utterances in a batch, as the run `replay` has them.
TRAININGS = {
    "warm start training": ("Adam", 0.011, 1.1, 4),
    "central training": ("Adagrad", 0.012, 1.2, 5),
    "client training": ("SGD", 0.13, 1.3, 3),
    "held-out training": ("SGD", 0.14, 1.3, 6),
    "personalisation training": ("AdamW", 0.015, 1.5, 2),
}


@pytest.fixture
def recording(recorded: Callable[[str], Recording]) -> Recording:
    return recorded("replay")


def test_every_training_has_its_own_settings(recording: Recording) -> None:
    assert recording.steps.keys() == TRAININGS.keys()
    for stage, (optimizer, lr, clip, batch) in TRAININGS.items():
        own = {"optimizer": optimizer, "lr": pytest.approx(lr), "clip": clip}
        shared = {"loss": recording.config.loss, "augment": recording.config.augment, "precision": "bf16"}
        for step in recording.steps[stage]:
            assert step == {**own, **shared, "with_ctc": True}, stage
        assert max(recording.batches[stage]) == batch, stage


def test_every_evaluation_has_its_own_decoder(recording: Recording) -> None:
    client, dev, test = Decoder.ctc_greedy, Decoder.attention_greedy, Decoder.beam
    beside = Decoder.ctc_greedy  # in the final table
    assert recording.decoders == {
        "client dev": {client},
        "personalisation dev": {client},
        "warm start dev": {dev},
        "round dev": {dev},
        "central dev": {dev},
        "test": {test, beside},
    }


def test_every_random_choice_is_drawn_for_its_own_place_and_the_seed_of_the_run(recording: Recording) -> None:
    assert {seed for seed, _ in recording.draws} == {11}
    clients = [client.id for client in recording.partition.clients]
    drawn = Counter(place for _, place in recording.draws)
    # The same weights are made wherever a fresh recogniser is.
    assert drawn.pop(("initial weights",)) >= 1
    assert drawn == Counter(
        [
            *(("warm_start", epoch) for epoch in (0, 1)),
            ("central", 0),
            *(("cohort", number) for number in (1, 2)),
            *(("client", number, client) for number in (1, 2) for client in clients),
            *(("held-out", number) for number in (1, 2)),
            *(("personalise", client) for client in clients),
        ]
    )


@pytest.mark.parametrize("start", ["scratch", "warm_start"])
def test_the_reference_starts_where_told(experiment: Experiment, tmp_path: Path, start: str) -> None:
    """Without an epoch it ends there too."""
    config = replace(experiment.config, central=ReferenceConfig(epochs=0, start=Start[start]))
    own = replace(experiment, config=config, run_dir=tmp_path)
    fresh = own.fresh_recogniser()
    warm = own.fresh_recogniser()
    torch.nn.init.ones_(warm.model.ctc_head.w.weight)
    save_recogniser(warm, own.checkpoints / "warm_start.pt")
    with RunProgress() as progress:
        reference(own, progress)
    expected = read_state((fresh if start == "scratch" else warm).model)
    assert read_state(load_recogniser(own.checkpoints / "central.pt").model).tobytes() == expected.tobytes()
