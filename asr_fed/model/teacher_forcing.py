"""SpeechBrain's attentional GRU decoder over a known text, all positions in one differentiable operation.

SpeechBrain's `AttentionalRNNDecoder.forward` calls about twenty modules per token, and autograd records each. Here
everything that does not depend on the previous token (the inputs' part of the gates, keys, values, dropout, the output
layer, the sums of the weights' gradients) is computed for all positions at once. Per token, a dozen kernels remain
forward and a dozen backward. The results are SpeechBrain's, up to rounding.

With h the GRU's state, c the context and a the attention over the frames l of an utterance, token t is

    h_t = GRU(x_t, c_{t-1}, h_{t-1})
    e_tl = u . tanh(k_l + W_q h_t + W_loc conv(a_{t-1})_l)
    a_t = softmax(scaling e_t),  c_t = sum_l a_tl v_l

(Chorowski et al., arXiv 1506.07503). As in SpeechBrain no gradient flows through a_{t-1} in the convolution.
tanh(z) = 2 sigmoid(2z) - 1, and softmax does not see a constant: 2u . sigmoid(2z) in place of u . tanh(z) gives the
same attention. torch's sigmoid on a CPU takes a sixth of the time of its tanh, which was the largest part of a token.
"""

from typing import Any

import torch
from speechbrain.nnet.RNN import AttentionalRNNDecoder
from torch.nn import functional


def teacher_forced(
    decoder: AttentionalRNNDecoder, inputs: torch.Tensor, states: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """The output of `decoder` for embedded tokens [batch, tokens, embedding] that attend to encoder states.

    Args:
        decoder: of one GRU layer, with location-aware attention.
        states: [batch, time, neurons], of which `counts` (int [batch]) are real.

    Returns float32 [batch, tokens, hidden_size], under autocast too.
    """
    with torch.autocast(states.device.type, enabled=False):
        inputs, states = inputs.float(), states.float()
        attention, cell = decoder.attn, decoder.rnn.rnn_cells[0]
        tokens, embedding = inputs.shape[1:]
        hidden, context = _Positions.apply(  # type: ignore[no-untyped-call]  # torch's own
            functional.linear(decoder.drop(inputs).transpose(0, 1), cell.weight_ih[:, :embedding], cell.bias_ih),
            cell.weight_ih[:, embedding:],
            torch.cat([cell.weight_hh, 2 * attention.mlp_dec.weight]),
            torch.cat([cell.bias_hh, 2 * attention.mlp_dec.bias]),
            attention.conv_loc.weight[:, 0],
            2 * attention.mlp_loc.weight,
            2 * attention.scaling * attention.mlp_attn.weight[0],
            2 * (attention.mlp_enc(states) + attention.mlp_loc.bias),
            attention.mlp_out(states),  # before the weighted sum instead of after it: weights add up to 1
            decoder.drop(states.new_ones(tokens, len(inputs), decoder.attn_dim)),
            torch.arange(states.shape[1], device=states.device) >= counts[:, None],
        )
        outputs: torch.Tensor = decoder.proj(torch.cat([context, hidden], dim=-1)).transpose(0, 1)
        return outputs


class _Positions(torch.autograd.Function):
    """States [T, B, H] and contexts [T, B, A] of the decoder.

    With B the batch, T the tokens, L the frames; H, F and A the neurons of GRU, attention and context:

    x: [T, B, 3H], the inputs' part of the gates reset, update and new.
    w_context: [3H, A], of the previous context in the gates.
    w_hidden, b_hidden: [3H + F, H] and [3H + F], of the state: in the gates of the next token, and in the query.
    w_conv, w_location: [C, taps] and [F, C], of the previous attention in the energies.
    w_energy: [F].
    keys, values: [B, L, F] and [B, L, A].
    dropout: [T, B, A], factors of the previous context.
    silent: bool [B, L], frames without attention.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        w_context: torch.Tensor,
        w_hidden: torch.Tensor,
        b_hidden: torch.Tensor,
        w_conv: torch.Tensor,
        w_location: torch.Tensor,
        w_energy: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        dropout: torch.Tensor,
        silent: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, batch, gates = x.shape
        hidden, frames, taps = gates // 3, keys.shape[1], w_conv.shape[1]
        # One entry more than tokens: the first is the state before the first token.
        h, context = x.new_zeros(tokens + 1, batch, hidden), x.new_zeros(tokens + 1, batch, values.shape[2])
        of_h = x.new_empty(tokens + 1, batch, len(w_hidden))
        of_h[0] = b_hidden
        padded = x.new_zeros(tokens + 1, batch, frames + taps - 1)
        attention = padded[:, :, taps // 2 : taps // 2 + frames]
        attention[0] = ~silent / (~silent).sum(1, keepdim=True)
        reset_update, new = x.new_empty(tokens, batch, 2 * hidden), x.new_empty(tokens, batch, hidden)
        located, squashed = x.new_empty(tokens, len(w_conv), batch * frames), x.new_empty(tokens, *keys.shape)
        barred = torch.zeros_like(keys[:, :, 0]).masked_fill_(silent, -torch.inf)

        # Views of each token, all made at once: made one by one they take as long as the small products.
        h_, c_, of_h_, new_, reset_update_ = (y.unbind() for y in (h, context, of_h, new, reset_update))
        reset_, update_ = (y.unbind() for y in reset_update.chunk(2, 2))
        of_gates_ = of_h[:, :, : 2 * hidden].unbind()
        of_new_, query_ = of_h[:, :, 2 * hidden : gates].unbind(), of_h[:, :, None, gates:].unbind()
        x_, dropout_, located_, squashed_ = x.unbind(), dropout.unbind(), located.unbind(), squashed.unbind()
        energies_ = squashed.view(tokens, batch * frames, -1).unbind()
        windows_, attention_ = padded.unfold(2, taps, 1).unbind(), attention.unbind()
        for t in range(tokens):
            of_x = torch.addmm(x_[t], c_[t] * dropout_[t], w_context.T)
            torch.add(of_x[:, : 2 * hidden], of_gates_[t], out=reset_update_[t]).sigmoid_()
            torch.addcmul(of_x[:, 2 * hidden :], reset_[t], of_new_[t], out=new_[t]).tanh_()
            torch.lerp(new_[t], h_[t], update_[t], out=h_[t + 1])
            torch.addmm(b_hidden, h_[t + 1], w_hidden.T, out=of_h_[t + 1])

            torch.mm(w_conv, windows_[t].reshape(-1, taps).T, out=located_[t])  # three times as fast in this order
            torch.add(keys, query_[t + 1], out=squashed_[t])
            energies_[t].addmm_(located_[t].T, w_location.T).sigmoid_()
            energy = torch.mv(energies_[t], w_energy).view(batch, frames)
            weights = torch.softmax(energy.add_(barred), dim=1)
            attention_[t + 1].copy_(weights)
            torch.bmm(weights[:, None], values, out=c_[t + 1][:, None])

        ctx.save_for_backward(w_context, w_hidden, w_location, w_energy, values, dropout)
        ctx.kept = h, context, of_h, reset_update, new, located, squashed, padded
        return h[1:].clone(), context[1:].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_h: torch.Tensor, d_context: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        with torch.autocast(d_h.device.type, enabled=False):
            return _backward(ctx, d_h, d_context)


def _backward(ctx: Any, d_h: torch.Tensor, d_context: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    w_context, w_hidden, w_location, w_energy, values, dropout = ctx.saved_tensors
    h, context, of_h, reset_update, new, located, squashed, padded = ctx.kept
    tokens, batch, hidden = new.shape
    frames, gates = values.shape[1], 3 * hidden
    taps = padded.shape[2] - frames + 1
    weights = padded[1:, :, taps // 2 : taps // 2 + frames].contiguous()

    # Factors of d h_t for the gates before their nonlinearity: for their input part, and for their state part.
    reset, update = reset_update.chunk(2, 2)
    to_new = (1 - update) * (1 - new.square())
    to_reset = to_new * of_h[:-1, :, 2 * hidden : gates] * reset * (1 - reset)
    to_update = (h[:-1] - new) * update * (1 - update)
    to_x, to_h = torch.stack([to_reset, to_update, to_new], 2), torch.stack([to_reset, to_update, to_new * reset], 2)

    d_x, d_of_h = h.new_empty(tokens, batch, gates), torch.zeros_like(of_h)
    d_context = torch.cat([torch.zeros_like(d_context[:1]), d_context])
    d_energy, d_located = torch.empty_like(weights), torch.empty_like(located)
    d_keys, d_location = torch.zeros_like(squashed[0]), torch.zeros_like(w_location.T)
    w_located = w_energy[:, None] * w_location
    carried = torch.zeros_like(h[0])  # from h_{t+1}, which depends on h_t directly

    weights_, d_energy_, squashed_, located_, d_located_ = (
        y.unbind() for y in (weights, d_energy, squashed, located, d_located)
    )
    d_c_, d_row_, dropout_ = (y.unbind() for y in (d_context[:, :, :, None], d_energy.view(tokens, -1), dropout))
    d_h_, d_of_h_, d_x_, update_, to_x_, to_h_ = (y.unbind() for y in (d_h, d_of_h, d_x, update, to_x, to_h))
    d_query_, d_gates_ = d_of_h[:, :, gates:].unbind(), d_of_h[:, :, :gates].unflatten(2, (3, hidden)).unbind()
    d_gates_x_ = d_x.view(tokens, batch, 3, hidden).unbind()
    for t in reversed(range(tokens)):
        d_weights = torch.bmm(values, d_c_[t + 1])[:, :, 0].mul_(weights_[t])
        torch.addcmul(d_weights, weights_[t], d_weights.sum(1, keepdim=True), value=-1, out=d_energy_[t])
        slope = torch.addcmul(squashed_[t], squashed_[t], squashed_[t], value=-1)
        torch.mul(torch.bmm(d_energy_[t][:, None], slope)[:, 0], w_energy, out=d_query_[t + 1])
        d_keys.addcmul_(d_energy_[t][:, :, None], slope)
        slope = slope.view(batch * frames, -1)
        d_location.addmm_(located_[t] * d_row_[t], slope)
        torch.mul(torch.mm(w_located.T, slope.T), d_row_[t], out=d_located_[t])

        total = torch.addmm(carried.add_(d_h_[t]), d_of_h_[t + 1], w_hidden)
        torch.mul(total[:, None], to_x_[t], out=d_gates_x_[t])
        torch.mul(total[:, None], to_h_[t], out=d_gates_[t])
        d_c_[t][:, :, 0].addcmul_(torch.mm(d_x_[t], w_context), dropout_[t])
        torch.mul(total, update_[t], out=carried)

    rows_x, rows_h = d_x.flatten(0, 1), d_of_h.flatten(0, 1)
    return (
        d_x,
        rows_x.T @ (context[:-1] * dropout).flatten(0, 1),
        rows_h.T @ h.flatten(0, 1),
        rows_h.sum(0),
        d_located.transpose(0, 1).flatten(1) @ padded[:-1].unfold(2, taps, 1).reshape(-1, taps),
        d_location.T * w_energy[:, None],
        d_energy.flatten() @ squashed.view(-1, len(w_energy)),
        d_keys * w_energy,
        torch.bmm(weights.permute(1, 2, 0), d_context[1:].transpose(0, 1)),
        None,
        None,
    )
