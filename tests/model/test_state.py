"""A model's state as one vector: what travels, and that it arrives."""

import copy
import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from asr_fed.model.state import layout, load_state, read_delta, read_state, state_sha256
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
