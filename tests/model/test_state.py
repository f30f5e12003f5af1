"""A model's state as one vector: what travels, and that it arrives."""

import copy
import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from asr_fed.model.state import (
    by_parameter,
    freeze,
    frozen_modules,
    frozen_sha256,
    layout,
    load_frozen,
    load_state,
    read_delta,
    read_state,
    state_sha256,
    trainable,
)
from asr_fed.system.errors import UserError
from tests.tiny import tiny_recogniser


class Odd(nn.Module):
    """Buffers of every kind, one of them not saved, and a layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.tied = self.linear
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("mean", torch.tensor([1.5, -2.5]))
        self.register_buffer("count", torch.tensor([7, 8]))
        self.register_buffer("flag", torch.tensor(True))
        self.register_buffer("scratch", torch.tensor([9.0]), persistent=False)


def test_a_delta_is_the_difference_of_two_states() -> None:
    model = tiny_recogniser().model
    before = read_state(model)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1.1).add_(0.01)
    assert read_delta(model, before).tobytes() == (read_state(model) - before).tobytes()


def test_parameters_come_first_then_floating_buffers_and_no_counters() -> None:
    model = Odd()
    where = layout(model)
    assert where.parameters == 3 * 2 + 2 + 2 + 2 == sum(p.numel() for p in model.parameters())
    assert where.spans() == [(0, 6), (6, 8), (8, 10), (10, 12)]
    vector = read_state(model)
    assert vector.dtype == np.float32 and vector.shape == (where.length,)
    assert where.length == where.parameters + 2 + 2 + 2  # the mean and the norm's running statistics
    np.testing.assert_array_equal(vector[:6], model.linear.weight.detach().numpy().reshape(-1))
    assert {1.5, -2.5} <= set(vector[12:].tolist())
    assert not {7.0, 8.0, 9.0} & set(vector.tolist())


def test_loading_writes_in_place_and_leaves_counters_alone() -> None:
    model = Odd()
    weight, norm = model.linear.weight, model.norm
    norm(torch.randn(4, 2))
    numbers = np.arange(layout(model).length, dtype=np.float32)
    load_state(model, numbers)
    np.testing.assert_array_equal(read_state(model), numbers)
    assert model.linear.weight is weight and weight.requires_grad
    assert weight[0, 1].item() == 1.0
    assert norm.num_batches_tracked.item() == 1
    assert model.count.tolist() == [7, 8] and model.flag.item() is True


@pytest.mark.parametrize("change", [-1, 1])
def test_a_vector_of_another_length_is_refused(change: int) -> None:
    model = Odd()
    vector = np.zeros(layout(model).length + change, dtype=np.float32)
    with pytest.raises((ValueError, RuntimeError)):
        load_state(model, vector)


def test_the_recogniser_round_trips_with_its_normaliser() -> None:
    sender, receiver = tiny_recogniser(seed=1).model, tiny_recogniser(seed=2).model
    sender.set_normaliser(np.full(16, 3.5, np.float32), np.full(16, 0.25, np.float32))
    vector = read_state(sender)
    before = vector.copy()
    load_state(receiver, vector)
    assert state_sha256(read_state(receiver)) == state_sha256(vector)
    assert receiver.feature_mean.tolist() == [3.5] * 16 and receiver.feature_deviation.tolist() == [0.25] * 16
    for name, tensor in receiver.state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(tensor, sender.state_dict()[name]), name
    with torch.no_grad():
        next(receiver.parameters()).add_(1)  # the vector is a copy
    np.testing.assert_array_equal(vector, before)
    assert any(name.endswith("running_var") for name in layout(sender).names)
    assert not any(name.endswith("num_batches_tracked") for name in layout(sender).names)


def test_reading_is_a_copy() -> None:
    model = Odd()
    vector = read_state(model)
    kept = copy.deepcopy(vector)
    with torch.no_grad():
        model.linear.weight.add_(1)
    np.testing.assert_array_equal(vector, kept)


def test_the_hash_is_of_the_little_endian_floats() -> None:
    vector = np.array([1.0, -0.5], dtype=np.float32)
    assert state_sha256(vector) == hashlib.sha256(bytes.fromhex("0000803f000000bf")).hexdigest()
    assert state_sha256(vector.astype(">f4")) == state_sha256(vector)
    assert state_sha256(vector[::-1]) != state_sha256(vector)


class Stacked(nn.Module):
    """A frozen block (a layer, a norm without parameters of its own, and one with) below a trainable one."""

    def __init__(self) -> None:
        super().__init__()
        self.below = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.BatchNorm1d(4))
        self.above = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, affine=False))
        self.register_buffer("mean", torch.zeros(3))
        freeze(self, ["below"])
        self.above[0].weight.requires_grad_(False)


def test_what_is_frozen_does_not_travel() -> None:
    model = Stacked()
    where = layout(model)
    assert where.names == ("above.0.bias", "mean", "above.1.running_mean", "above.1.running_var")
    assert where.parameters == 2 == sum(parameter.numel() for parameter in trainable(model))
    assert frozen_modules(model) == [model.below]
    base = {name: tensor.clone() for name, tensor in model.state_dict().items() if name not in where.names}
    load_state(model, np.arange(9, dtype=np.float32))
    np.testing.assert_array_equal(read_state(model), np.arange(9))
    np.testing.assert_array_equal(read_delta(model, np.ones(9, np.float32)), np.arange(9) - 1)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in base.items())
    assert [part.shape for part in by_parameter(model, np.zeros(2, np.float32))] == [(2,)]


def test_the_base_is_hashed_by_content_and_nothing_else_is() -> None:
    model = Stacked()
    before = frozen_sha256(model)
    assert len(before) == 64 and frozen_sha256(copy.deepcopy(model)) == before
    load_state(model, np.arange(9, dtype=np.float32))
    model.above[1].num_batches_tracked.add_(1)
    assert frozen_sha256(model) == before
    for tensor in (model.below[0].weight, model.below[1].running_mean, model.above[0].weight):
        changed = copy.deepcopy(model)
        name = next(name for name, own in model.state_dict(keep_vars=True).items() if own is tensor)
        changed.state_dict()[name].view(-1)[-1].add_(1e-3)
        assert frozen_sha256(changed) != before, name
    assert frozen_sha256(Odd()) == ""


def test_a_base_is_loaded_whole_or_refused() -> None:
    theirs, ours = Stacked(), Stacked()
    own = read_state(ours)
    load_frozen(ours, theirs.state_dict())
    assert frozen_sha256(ours) == frozen_sha256(theirs)
    np.testing.assert_array_equal(read_state(ours), own)
    without = {name: tensor for name, tensor in theirs.state_dict().items() if name != "below.2.running_var"}
    with pytest.raises(UserError, match=r"below\.2\.running_var .* nothing"):
        load_frozen(ours, without)
    with pytest.raises(UserError, match=r"above\.0\.weight .*\(2, 4\), its base has .*\(4, 2\)"):
        load_frozen(ours, {**theirs.state_dict(), "above.0.weight": torch.zeros(4, 2)})


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["belov"], "no part 'belov'. Did you mean 'below'"),
        ([""], "no part ''"),
        (["below", "above"], "no part of"),
    ],
)
def test_what_cannot_be_frozen_is_refused(names: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        freeze(Stacked(), names)
