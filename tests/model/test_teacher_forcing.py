"""Teacher forcing in one operation: what SpeechBrain's own decoder computes, and its gradients."""

import pytest
import torch
from speechbrain.nnet.RNN import AttentionalRNNDecoder
from torch import nn

from asr_fed.model.teacher_forcing import teacher_forced

BATCH, TOKENS, FRAMES, EMBEDDING, NEURONS, HIDDEN = 3, 7, 11, 6, 10, 16
COUNTS = torch.tensor([11, 4, 8])


class Shrink(nn.Module):
    """Stands where dropout is and can be told from its absence, without drawing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0.6


def build_decoder(scaling: float = 1.0) -> AttentionalRNNDecoder:
    torch.manual_seed(4)
    return AttentionalRNNDecoder(
        rnn_type="gru",
        attn_type="location",
        hidden_size=HIDDEN,
        attn_dim=12,
        num_layers=1,
        enc_dim=NEURONS,
        input_size=EMBEDDING,
        channels=3,
        kernel_size=5,
        scaling=scaling,
    )


def draw(decoder: AttentionalRNNDecoder) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, states and the weights of a loss; large enough for gates and attention to leave their linear part."""
    for parameter in decoder.parameters():
        parameter.data *= 2
    inputs = torch.randn(BATCH, TOKENS, EMBEDDING, requires_grad=True)
    states = torch.randn(BATCH, FRAMES, NEURONS, requires_grad=True)
    return inputs, states, torch.randn(BATCH, TOKENS, HIDDEN)


@pytest.mark.parametrize("scaling", [1.0, 1.7])
@pytest.mark.parametrize("dropout", [None, Shrink()])
def test_outputs_and_gradients_are_those_of_speechbrains_decoder(scaling: float, dropout: nn.Module | None) -> None:
    decoder = build_decoder(scaling)
    if dropout is not None:
        decoder.drop = dropout
    inputs, states, weights = draw(decoder)
    names, parameters = zip(*decoder.named_parameters(), strict=True)

    theirs, _ = decoder(inputs, states, COUNTS / FRAMES)
    their_gradients = torch.autograd.grad((theirs * weights).sum(), [inputs, states, *parameters])
    ours = teacher_forced(decoder, inputs, states, COUNTS)
    our_gradients = torch.autograd.grad((ours * weights).sum(), [inputs, states, *parameters])

    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for name, our, their in zip(("inputs", "states", *names), our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_gradients_do_not_change_when_they_are_asked_for_twice() -> None:
    decoder = build_decoder()
    inputs, states, weights = draw(decoder)
    loss = (teacher_forced(decoder, inputs, states, COUNTS) * weights).sum()
    first, second = (torch.autograd.grad(loss, [inputs, states], retain_graph=True) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_dropout_takes_whole_inputs_and_contexts_and_only_in_training() -> None:
    decoder = build_decoder()
    inputs, states, _ = draw(decoder)
    decoder.drop = nn.Dropout(0.5)
    train = [teacher_forced(decoder.train(), inputs, states, COUNTS) for _ in range(2)]
    evaluate = [teacher_forced(decoder.eval(), inputs, states, COUNTS) for _ in range(2)]
    assert not torch.equal(*train)
    assert torch.equal(*evaluate)


def test_autocast_leaves_the_decoder_in_float32() -> None:
    decoder = build_decoder()
    inputs, states, weights = draw(decoder)
    expected = teacher_forced(decoder, inputs, states, COUNTS)
    expected_gradient = torch.autograd.grad((expected * weights).sum(), inputs)[0]
    with torch.autocast("cpu", torch.bfloat16):
        ours = teacher_forced(decoder, inputs, states, COUNTS)
    gradient = torch.autograd.grad((ours * weights).sum(), inputs)[0]
    assert ours.dtype is torch.float32
    assert torch.equal(ours, expected)
    assert torch.equal(gradient, expected_gradient)


def test_nothing_of_a_batch_stays_in_the_decoder() -> None:
    decoder = build_decoder()
    inputs, states, _ = draw(decoder)
    teacher_forced(decoder, inputs, states, COUNTS)
    kept = (decoder.attn.precomputed_enc_h, decoder.attn.mask, decoder.attn.prev_attn)
    assert kept == (None, None, None)
