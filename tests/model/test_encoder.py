"""An utterance's states do not depend on the rest of the batch."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from asr_fed.model.encoder import Encoder, bidirectional_lstm, convolve
from tests.tiny import tiny_model_config

LENGTHS = [37, 4, 61, 60, 1, 23]
SHAPES = [
    {"pool_2d": True, "time_pooling": 1},
    {"pool_2d": False, "time_pooling": 4},
    {"pool_2d": False, "time_pooling": 1},
    {"pool_2d": True, "time_pooling": 2, "cnn_kernel": [5, 5]},
]


def encoder(**shape: object) -> Encoder:
    torch.manual_seed(0)
    built = Encoder.create(tiny_model_config(**({"dropout": 0.3} | shape)), n_mels=16)
    with torch.no_grad():  # statistics as after training, so that BatchNorm does something
        for module in built.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.uniform_(-1, 1)
                module.running_var.uniform_(0.5, 2)
    return built.eval()


def padded(lengths: list[int]) -> torch.Tensor:
    torch.manual_seed(1)
    return nn.utils.rnn.pad_sequence([torch.randn(length, 16) for length in lengths], batch_first=True)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_states_do_not_depend_on_the_batch(shape: dict[str, object]) -> None:
    model, features = encoder(**shape), padded(LENGTHS)
    with torch.no_grad():
        states, counts = model(features, torch.tensor(LENGTHS))
        assert counts.tolist() == [-(-length // model.stride) for length in LENGTHS]
        for row, length in enumerate(LENGTHS):
            own, [count] = model(features[row : row + 1, :length], torch.tensor([length]))
            assert count == counts[row]
            torch.testing.assert_close(states[row, :count], own[0, :count], atol=1e-5, rtol=0)
            assert not states[row, count:].any()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_stands_in_the_padding_does_not_matter(shape: dict[str, object]) -> None:
    model, features = encoder(**shape), padded(LENGTHS)
    noisy = features.clone()
    for row, length in enumerate(LENGTHS):
        noisy[row, length:] = 100.0
    with torch.no_grad():
        clean, counts = model(features, torch.tensor(LENGTHS))
        disturbed, _ = model(noisy, torch.tensor(LENGTHS))
    assert torch.equal(clean, disturbed)
    assert not torch.equal(clean[0, : counts[0]], torch.zeros_like(clean[0, : counts[0]]))


def test_batch_norm_learns_from_real_frames_only() -> None:
    lengths = [40, 8]
    features = padded(lengths)
    running = []
    for padding in (0, 300):
        model = encoder(pool_2d=True, dropout=0.0).train()
        model(nn.functional.pad(features, (0, 0, 0, padding)), torch.tensor(lengths))
        norms = [module for module in model.crdnn.DNN.modules() if isinstance(module, nn.BatchNorm1d)]
        assert norms
        running.append(torch.cat([norm.running_mean for norm in norms] + [norm.running_var for norm in norms]))
    torch.testing.assert_close(*running, atol=1e-6, rtol=1e-5)


def test_a_batch_of_one_short_utterance_can_be_trained_on() -> None:
    model = encoder(pool_2d=True).train()
    states, _ = model(padded([5]), torch.tensor([5]))
    states.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("shape", [*SHAPES, {"cnn_kernel": [3, 5]}, {"cnn_kernel": [5, 3], "pool_2d": True}], ids=str)
def test_convolutions_are_speechbrains_forward_and_backward(shape: dict[str, object]) -> None:
    """In training, with the same units dropped."""
    block = encoder(**shape).train().double().crdnn.CNN["block_0"]
    outputs, gradients = [], []
    for call in (block, lambda x: convolve(block, x)):
        x = torch.randn(3, 20, 16, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(4)).requires_grad_()
        block.zero_grad()
        torch.manual_seed(5)
        y = call(x if call is not block else x.squeeze(-1))
        y.sin().sum().backward()
        outputs.append(y.detach())
        gradients.append([x.grad, *(p.grad.clone() for p in block.parameters() if p.grad is not None)])
    assert outputs[0].eq(0).any(), "nothing was dropped"
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-12, rtol=0)
    assert len(gradients[0]) == len(gradients[1]) == 9
    for expected, computed in zip(*gradients, strict=True):
        torch.testing.assert_close(expected, computed, atol=1e-10, rtol=0)


@pytest.mark.parametrize("layers", [1, 3])
def test_the_lstm_is_that_of_packed_sequences_forward_and_backward(layers: int) -> None:
    torch.manual_seed(2)
    lstm = nn.LSTM(6, 5, num_layers=layers, bidirectional=True, batch_first=True).double()
    lengths = torch.tensor([3, 9, 1, 7])
    x = torch.randn(4, 9, 6, dtype=torch.float64)
    real = (torch.arange(9) < lengths[:, None])[:, :, None]
    gradients = []
    outputs = []
    for packed in (True, False):
        own = x.clone().requires_grad_()
        lstm.zero_grad()
        if packed:
            sequence = pack_padded_sequence(own, lengths, batch_first=True, enforce_sorted=False)
            y = pad_packed_sequence(lstm(sequence)[0], batch_first=True, total_length=9)[0]
        else:
            y = bidirectional_lstm(lstm, own, lengths) * real
        (y.sin() * real).sum().backward()
        assert own.grad is not None
        outputs.append(y.detach())
        gradients.append([own.grad, *(p.grad.clone() for p in lstm.parameters() if p.grad is not None)])
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-12, rtol=0)
    assert len(gradients[0]) == 1 + 8 * layers
    for expected, computed in zip(*gradients, strict=True):
        torch.testing.assert_close(expected, computed, atol=1e-12, rtol=0)
