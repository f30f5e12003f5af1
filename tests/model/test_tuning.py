"""Tuning little: what travels, that the rest stays, that LoRA merges, and what a round then costs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from asr_fed.config.check import check_shared
from asr_fed.config.schema import FederationConfig, Tune
from asr_fed.federation.rounds import run_federation
from asr_fed.model.recogniser import Recogniser, load_recogniser, save_recogniser
from asr_fed.model.state import frozen_base, frozen_sha256, layout, read_state
from asr_fed.model.tuning import merged_state, train_only
from asr_fed.runs.experiment import Experiment
from asr_fed.system.errors import UserError
from asr_fed.training.optimizer import build_optimizer
from asr_fed.wire.hosts import RemoteNodes
from tests.federation.test_rounds import InProcess
from tests.model.test_conformer import TINY
from tests.tiny import Corpus, random_batch, settings, tiny_recogniser, typed_config

RANK = "federation.lora_rank=2"
PERSONAL = ("personalise=true", "federation.clients.dev_fraction=0.2")
CONFORMER = [f"model.{name}={getattr(value, 'name', value)}" for name, value in TINY.items()]


def tuned(how: Tune) -> Recogniser:
    recogniser = tiny_recogniser(**TINY, dropout=0.0, adapters=2 if how is Tune.adapters else 0)
    train_only(recogniser.model, FederationConfig(tune=how, lora_rank=2))
    return recogniser


def stepped(recogniser: Recogniser) -> None:
    """One step of plain SGD on what is trained."""
    model, batch = recogniser.model, random_batch([60, 40], recogniser.tokenizer)
    optimizer = build_optimizer({"_target_": "torch.optim.SGD"}, model, lr=0.5)
    loss = model.loss(model.normalise(batch.features), batch, typed_config({}).loss, with_ctc=True)
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("how", "most"), [(Tune.head, 0.12), (Tune.norm_bias, 0.25), (Tune.adapters, 0.05), (Tune.lora, 0.6)]
)
def test_only_what_is_tuned_travels_and_changes(how: Tune, most: float) -> None:
    recogniser, whole = tuned(how), tiny_recogniser(**TINY)
    parts, model = layout(recogniser.model), recogniser.model
    assert 0 < parts.parameters < most * layout(whole.model).parameters
    base = {name: tensor.clone() for name, tensor in frozen_base(model).items()}
    before, sha256 = read_state(model), frozen_sha256(model)
    stepped(recogniser)
    assert (read_state(model) != before).any()
    assert frozen_sha256(model) == sha256
    assert all(torch.equal(tensor, base[name]) for name, tensor in frozen_base(model).items())


@torch.no_grad()
def test_lora_begins_as_the_model_was_and_merges_into_its_weights(tmp_path: Path) -> None:
    plain, recogniser = tiny_recogniser(**TINY, dropout=0.0), tuned(Tune.lora)
    batch = random_batch([60, 40], plain.tokenizer)
    states, _ = plain.model.eval().encode(batch)
    torch.testing.assert_close(recogniser.model.eval().encode(batch)[0], states)
    with torch.enable_grad():
        stepped(recogniser)
    save_recogniser(recogniser, tmp_path / "merged.pt")
    opened = load_recogniser(tmp_path / "merged.pt")
    after, _ = recogniser.model.eval().encode(batch)
    torch.testing.assert_close(opened.model.eval().encode(batch)[0], after)
    assert (after - states).abs().max() > 1e-4
    changed = {
        name
        for name, tensor in merged_state(recogniser.model).items()
        if (tensor != plain.model.state_dict()[name]).any()
    }
    assert any("in_proj_weight" in name for name in changed) and any("ffn_module1" in name for name in changed)
    assert not [name for name in changed if name.endswith("bias")]


@torch.no_grad()
def test_adapters_begin_as_the_model_was_and_go_into_checkpoints(tmp_path: Path) -> None:
    plain = tiny_recogniser(**TINY, dropout=0.0)
    batch = random_batch([60, 40], plain.tokenizer)
    states, _ = plain.model.eval().encode(batch)
    grown = plain.with_adapters(3)
    assert grown.model_config.adapters == 3 and grown.with_adapters(5) is grown
    torch.testing.assert_close(grown.model.eval().encode(batch)[0], states)
    train_only(grown.model, FederationConfig(tune=Tune.adapters))
    assert layout(grown.model).parameters == 2 * (2 * 3 * 16 + 3 + 16)
    with torch.enable_grad():
        stepped(grown)
    save_recogniser(grown, tmp_path / "adapted.pt")
    after, _ = grown.model.eval().encode(batch)
    assert (after - states).abs().max() > 1e-4
    opened, _ = load_recogniser(tmp_path / "adapted.pt").model.eval().encode(batch)
    torch.testing.assert_close(opened, after)


@pytest.fixture
def make(experiment: Experiment, corpus: Corpus, prepared: Path, tmp_path: Path) -> Callable[..., Experiment]:
    def changed(*changes: str, name: str) -> Experiment:
        config = typed_config(
            settings(corpus, prepared, tmp_path / name), *CONFORMER, RANK, "federation.rounds=2", *changes
        )
        own = replace(experiment, config=config, run_dir=tmp_path / name)
        save_recogniser(own.fresh_recogniser(), own.checkpoints / "warm_start.pt")
        return own

    return changed


def run(experiment: Experiment, **more: Any) -> Any:
    return run_federation(experiment, RemoteNodes(InProcess(experiment)), **more)  # type: ignore[arg-type]


def test_a_federation_sends_the_tuned_part_alone_and_goes_on_after_a_kill(make: Callable[..., Experiment]) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(history: Any) -> None:
        raise Interrupted

    own, full = make("federation.tune=lora", name="lora"), make("federation.rounds=1", name="full")
    start = own.fresh_recogniser().model
    state, whole = run(own), run(full)
    assert len(state.weights) < 0.6 * len(whole.weights)
    one, other, saved = state.history[0], whole.history[0], len(whole.weights) - len(state.weights)
    assert other.bytes_down - one.bytes_down == 2 * 4 * saved, "two nodes, float32"
    assert one.bytes_up < other.bytes_up / 5
    federated = load_recogniser(own.checkpoints / "federated.pt").model
    assert layout(federated) == layout(start)

    killed = make("federation.tune=lora", name="killed")
    with pytest.raises(Interrupted):
        run(killed, on_round=interrupt)
    assert run(killed).weights.tobytes() == state.weights.tobytes()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["federation.tune=lora"], "linear layers"),
        (["federation.tune=adapters", *CONFORMER], "model.adapters=64"),
        (["federation.tune=adapters", "model.adapters=8"], "set it to 0 with a CRDNN"),
        ([*PERSONAL, "federation.tune=head"], "do not go together"),
        ([*PERSONAL, "personalisation.part=lora"], "part=lora is for encoders of linear layers"),
        (
            [*PERSONAL, "personalisation.part=adapters", *CONFORMER],
            "part=adapters trains adapters, of which",
        ),
    ],
)
def test_what_cannot_be_tuned_is_refused(changes: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        check_shared(OmegaConf.structured(typed_config({}, "augment.pauses=0.0", *changes)))
