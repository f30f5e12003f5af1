"""Rounds over an encoder that others have trained: only what is tuned is in the messages, in every engine alike."""

from pathlib import Path

import pytest

from asr_fed.engines.open_workers import open_workers
from asr_fed.federation.rounds import run_federation
from asr_fed.model.recogniser import load_recogniser, save_recogniser
from asr_fed.model.state import layout, state_sha256
from asr_fed.model.tuning import train_only
from asr_fed.runs.experiment import Experiment
from asr_fed.runs.run_dir import begin_run
from tests.encoders import pretrained_experiment, write_encoder
from tests.federation.test_frozen import HEADER, run
from tests.tiny import Corpus

ALWAYS = ("federation.cohort=null", "federation.rounds=2", "federation.average_last=1", "federation.lora_rank=2")
NORMALISER = {"feature_mean", "feature_deviation"}  # a number each


def begun(corpus: Corpus, prepared: Path, tmp_path: Path, name: str, *changes: str) -> Experiment:
    """A run whose warm start is there, without training."""
    folder = tmp_path / "encoder"
    if not folder.exists():
        write_encoder(folder)
    experiment = pretrained_experiment(corpus, prepared, tmp_path / name, folder, *ALWAYS, *changes)
    begin_run(experiment.config)
    save_recogniser(experiment.fresh_recogniser(), experiment.checkpoints / "warm_start.pt")
    return experiment


@pytest.mark.parametrize(
    ("tune", "parts"),
    [("lora", (".0.down", ".0.up")), ("adapters", (".down.weight", ".down.bias", ".up.weight", ".up.bias"))],
)
def test_only_what_is_tuned_is_in_the_messages_and_the_rest_stays(
    tune: str, parts: tuple[str, ...], corpus: Corpus, prepared: Path, tmp_path: Path
) -> None:
    adapters = "model.adapters=3" if tune == "adapters" else "model.adapters=0"
    experiment = begun(corpus, prepared, tmp_path, "run", f"federation.tune={tune}", adapters)
    state = run(experiment)
    start = load_recogniser(experiment.checkpoints / "warm_start.pt").model
    before = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    whole = layout(start).length
    train_only(start, experiment.config.federation)
    names, left = layout(start).names, layout(start).length
    assert {name for name in names if not name.endswith(parts)} == NORMALISER
    assert len(state.weights) == left < whole / 2
    for record in state.history:
        asked = len(record.workers)
        assert record.bytes_down == asked * (4 * left + HEADER), "float32 to each worker"
        assert record.bytes_up / asked < 5.1 * left + HEADER, "one exact sum from each, packed"
        assert record.clients == 5 and record.failures == {}
    after = load_recogniser(experiment.checkpoints / "federated.pt").model.state_dict()
    assert after.keys() == before.keys()
    moved = {name for name in before if not before[name].equal(after[name])}
    tuned = ".adapter." if tune == "adapters" else ".weight"
    assert moved and all(tuned in name for name in moved)
    assert not any("feature_extractor" in name or "pos_conv_embed" in name for name in moved)


def test_workers_and_ray_end_in_the_same_weights(corpus: Corpus, prepared: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    plain = run(begun(corpus, prepared, tmp_path, "inline", "federation.tune=lora"))
    states = [plain]
    for engine, workers in (("local", 2), ("ray", 1)):
        changes = ("federation.tune=lora", f"engine.kind={engine}", f"engine.workers={workers}")
        experiment = begun(corpus, prepared, tmp_path, engine, *changes)
        with open_workers(experiment) as workers:
            states.append(run_federation(experiment, workers))
    assert len({state_sha256(state.weights) for state in states}) == 1
    for record in (record for state in states for record in state.history):
        assert record.bytes_down == len(record.workers) * (4 * len(plain.weights) + HEADER)
