"""Joint beam search of attention decoder and CTC over a batch, in which utterances do not influence each other.

The hypotheses are those of SpeechBrain's `S2SRNNBeamSearcher` with `CTCScorer` over each utterance alone (which an
exported folder uses), found in a fraction of its time:

- Each utterance has its own search length and end, and leaves the batch when its search has ended. In SpeechBrain the
    search of a batch continues until the last one has ended, which changes the results of the others.
- CTC prefix scores (Watanabe et al., MERL TR2017-190, algorithm 2) have no loop over frames. The score of a prefix h
  with one more token c is log sum_t phi_{t-1} p_t(c): a matrix product for all tokens at once. The forward
  probabilities are needed only of the hypotheses that survive, and are linear recurrences

      r_t = (r_{t-1} + f_{t-1}) p_t
      log r_t = P_t + log sum_{s<=t} exp(log f_{s-1} - P_{s-1}) with P_t = sum_{s<=t} log p_s

  that is, a cumulative log-sum-exp. Both are in float64, so that neither underflows.
"""

import math
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch.nn import functional

from asr_fed.config.schema import EvaluationConfig
from asr_fed.data.tokenizer import BLANK, BOS, EOS

if TYPE_CHECKING:
    from asr_fed.model.recogniser import AcousticModel

# Bound on the number of attention energies [utterances, beam, frames, neurons] that are computed at a time.
NUMBERS = {"cpu": 2**20, "cuda": 2**27, "mps": 2**25}


def beam_search(
    model: "AcousticModel", states: torch.Tensor, counts: torch.Tensor, config: EvaluationConfig
) -> list[list[int]]:
    """Best hypothesis of each utterance: states [batch, time, neurons], of which `counts` (int [batch]) are real.

    A hypothesis has at most one token per state. The model has to be in evaluation mode.
    """
    hypotheses: list[list[int]] = [[] for _ in counts]
    order = counts.argsort(descending=True).tolist()  # similar lengths: little padding
    while order:
        numbers = config.beam_size * int(counts[order[0]]) * model.decoder.attn.mlp_enc.out_features
        size = max(1, NUMBERS.get(states.device.type, 2**20) // numbers)
        rows, order = order[:size], order[size:]
        own = counts[rows]
        for row, hypothesis in zip(rows, _search(model, states[rows, : int(own[0])], own, config), strict=True):
            hypotheses[row] = hypothesis
    return hypotheses


@dataclass(frozen=True)
class _Speech:
    """What stays the same for each of B utterances of L states."""

    counts: torch.Tensor  # int [B]
    silent: torch.Tensor  # bool [B, 1, L]
    keys: torch.Tensor  # [B, 1, L, neurons]
    values: torch.Tensor  # [B, L, neurons]
    log_probs: torch.Tensor  # float64 [B, L, vocabulary] of CTC
    probs: torch.Tensor  # the same, no logarithm, 0 where silent


@dataclass(frozen=True)
class _Beam:
    """K hypotheses of each of B utterances, all of n tokens."""

    scores: torch.Tensor  # [B, K], sums of log-probabilities
    tokens: torch.Tensor  # int [B, K, n + 1], from BOS on
    hidden: torch.Tensor  # [B, K, neurons]
    context: torch.Tensor  # [B, K, neurons]
    attention: torch.Tensor  # [B, K, L]
    forward: torch.Tensor  # float64 [B, K, 2, L]: CTC's log r of endings in a token, in blank
    prefix: torch.Tensor  # float64 [B, K]: CTC's score of the prefix


Part = TypeVar("Part", _Speech, _Beam)


@dataclass
class _Ended:
    """The result for an utterance so far: how many hypotheses have ended, and the best of them."""

    number: int = 0
    score: float = -math.inf
    tokens: list[int] = field(default_factory=list)

    def add(self, score: float, tokens: torch.Tensor, most: int) -> None:
        """`tokens` from BOS to EOS, or where it was cut off."""
        if self.number < most:
            self.number += 1
            if score > self.score:
                self.score, self.tokens = score, tokens[1:-1].tolist()


def _search(
    model: "AcousticModel", states: torch.Tensor, counts: torch.Tensor, config: EvaluationConfig
) -> list[list[int]]:
    size, weight = config.beam_size, config.beam_ctc_weight
    speech = _prepare(model, states, counts)
    beam = _begin(model, speech, size)
    found = [_Ended() for _ in counts]
    searched = list(range(len(found)))  # utterance of each row
    for step in range(1, states.shape[1] + 1):
        peaks = beam.attention.argmax(-1) if step > 1 else 0
        log_probs, beam = _attend(model, speech, beam, config.beam_temperature)
        log_probs *= 1 - weight
        if config.beam_max_attention_shift is not None:
            astray = _astray(beam, beam.attention.argmax(-1) - peaks, config.beam_max_attention_shift)
            log_probs = log_probs.masked_fill(astray[:, :, None], -math.inf)
        if config.beam_eos_threshold is not None:
            early = log_probs[:, :, EOS] < config.beam_eos_threshold * log_probs.amax(-1)
            log_probs[:, :, EOS] = log_probs[:, :, EOS].masked_fill(early, -math.inf)
        if weight > 0:
            prefixes = _prefix_scores(speech, beam)
            gain = torch.where(prefixes > -math.inf, prefixes - beam.prefix[:, :, None], -math.inf)
            log_probs += weight * gain.to(log_probs.dtype)

        vocabulary = log_probs.shape[2]
        scores, best = ((beam.scores[:, :, None] + log_probs) / step).flatten(1).topk(size)
        origin, tokens = best // vocabulary, best % vocabulary
        earlier, beam = beam, _take_origins(beam, origin)
        if weight > 0:
            beam = _extend_ctc(speech, beam, tokens, prefixes.flatten(1).gather(1, best))
        ended = (tokens == EOS) & (scores > -math.inf)
        beam = replace(
            beam,
            scores=(scores * step).masked_fill(ended, -math.inf),
            tokens=torch.cat([beam.tokens, tokens[:, :, None]], 2),
        )

        cut_off, alive = (speech.counts <= step).tolist(), (beam.scores > -math.inf).any(1).tolist()
        last = (speech.counts <= step)[:, None] & (scores > -math.inf)
        for row, place in ended.nonzero().tolist() + last.nonzero().tolist():
            found[searched[row]].add(float(scores[row, place]), beam.tokens[row, place], size)
        for row, own in enumerate(searched):
            if not alive[row] and not found[own].number:  # CTC has no frame left for another token
                found[own].tokens = earlier.tokens[row, 0, 1:].tolist()
        on = [row for row, own in enumerate(searched) if found[own].number < size and alive[row] and not cut_off[row]]
        if not on:
            break
        if len(on) < len(searched):
            searched, speech, beam = [searched[row] for row in on], _take_rows(speech, on), _take_rows(beam, on)
    return [each.tokens for each in found]


def _prepare(model: "AcousticModel", states: torch.Tensor, counts: torch.Tensor) -> _Speech:
    attention = model.decoder.attn
    silent = torch.arange(states.shape[1], device=states.device) >= counts[:, None]
    log_probs = model.ctc_log_probs(states).to(torch.float32 if states.device.type == "mps" else torch.float64)
    return _Speech(
        counts=counts,
        silent=silent[:, None],
        keys=(2 * (attention.mlp_enc(states) + attention.mlp_loc.bias + attention.mlp_dec.bias))[:, None],
        values=attention.mlp_out(states),
        log_probs=log_probs,
        probs=log_probs.exp().masked_fill(silent[:, :, None], 0.0),
    )


def _begin(model: "AcousticModel", speech: _Speech, size: int) -> _Beam:
    batch = len(speech.counts)
    zeros = speech.values.new_zeros
    scores = zeros(batch, size).fill_(-math.inf)
    scores[:, 0] = 0.0
    uniform = ~speech.silent / speech.counts[:, None, None]
    blanks = speech.log_probs[:, :, BLANK].cumsum(1)
    return _Beam(
        scores=scores,
        tokens=torch.full((batch, size, 1), BOS, device=scores.device),
        hidden=zeros(batch, size, model.decoder.hidden_size),
        context=zeros(batch, size, model.decoder.attn_dim),
        attention=uniform.to(scores.dtype).repeat(1, size, 1),
        forward=torch.stack([torch.full_like(blanks, -math.inf), blanks], 1)[:, None].repeat(1, size, 1, 1),
        prefix=speech.log_probs.new_zeros(batch, size),
    )


def _attend(model: "AcousticModel", speech: _Speech, beam: _Beam, temperature: float) -> tuple[torch.Tensor, _Beam]:
    """Log-probabilities [B, K, vocabulary] of the next token by the attention decoder, and its state after this one.

    2u . sigmoid(2z) stands for u . tanh(z), see teacher_forcing.py.
    """
    decoder, attention = model.decoder, model.decoder.attn
    batch, size, frames = beam.attention.shape
    inputs = torch.cat([model.embedding(beam.tokens[:, :, -1]), beam.context], dim=2)
    hidden = decoder.rnn.rnn_cells[0](inputs.flatten(0, 1), beam.hidden.flatten(0, 1)).view(batch, size, -1)
    taps = attention.conv_loc.kernel_size[0]
    windows = functional.pad(beam.attention, (taps // 2, taps // 2)).unfold(2, taps, 1)
    located = windows.reshape(-1, taps) @ attention.conv_loc.weight[:, 0].T
    energies = (speech.keys + 2 * functional.linear(hidden, attention.mlp_dec.weight)[:, :, None]).flatten(0, 2)
    energies = torch.addmm(energies, located, 2 * attention.mlp_loc.weight.T).sigmoid_()
    energy = (energies @ attention.mlp_attn.weight[0]).view(batch, size, frames)
    weights = (2 * attention.scaling * energy).masked_fill(speech.silent, -math.inf).softmax(-1)
    context = weights @ speech.values
    outputs = decoder.proj(torch.cat([context, hidden], dim=2))
    log_probs = (model.decoder_head(outputs).float() / temperature).log_softmax(-1)
    return log_probs, replace(beam, hidden=hidden, context=context, attention=weights)


def _astray(beam: _Beam, shift: torch.Tensor, most: int) -> torch.Tensor:
    """bool [B, K]: hypotheses whose attention has moved too far, unless that is true for all of an utterance."""
    far = (shift > most) | (shift <= -most)
    return far & ~(far | (beam.scores == -math.inf)).all(1, keepdim=True)


def _before(forward: torch.Tensor, first: bool) -> torch.Tensor:
    """log r_{t-1} for each t of log r [..., L]; before the first frame only the empty prefix is possible."""
    return functional.pad(forward[..., :-1], (1, 0), value=0.0 if first else -math.inf)


def _prefix_scores(speech: _Speech, beam: _Beam) -> torch.Tensor:
    """CTC's log-probability, float64 [B, K, vocabulary], of all texts that begin with a hypothesis and one more token.

    For the end token it is the log-probability of the hypothesis itself.
    """
    first = beam.tokens.shape[2] == 1
    whole = torch.logsumexp(beam.forward, 2)
    before = _before(whole, first)
    most = before.amax(-1, keepdim=True).clamp_min(torch.finfo(before.dtype).min)
    scores = ((before - most).exp() @ speech.probs).log() + most
    # A repeated token needs a blank in between.
    last = beam.tokens[:, :, -1:]
    own = speech.probs.transpose(1, 2).gather(1, last.expand(-1, -1, speech.probs.shape[1])).log()
    again = torch.logsumexp(_before(beam.forward[:, :, 1], first) + own, 2, keepdim=True)
    scores = scores.scatter(2, last, again)
    ends = (speech.counts - 1)[:, None, None].expand(-1, whole.shape[1], 1)
    scores[:, :, EOS] = whole.gather(2, ends)[:, :, 0]
    scores[:, :, BLANK] = -math.inf
    return scores


def _extend_ctc(speech: _Speech, beam: _Beam, tokens: torch.Tensor, prefix: torch.Tensor) -> _Beam:
    """CTC's state after each hypothesis is extended by one of `tokens` [B, K]; `prefix` are the new scores."""
    first = beam.tokens.shape[2] == 1
    again = tokens == beam.tokens[:, :, -1]
    new = _before(torch.where(again[:, :, None], beam.forward[:, :, 1], torch.logsumexp(beam.forward, 2)), first)
    own = speech.log_probs.transpose(1, 2).gather(1, tokens[:, :, None].expand_as(new)).cumsum(-1)
    spoken = own + torch.logcumsumexp(new - _before(own, first=True), -1)
    blanks = speech.log_probs[:, None, :, BLANK].cumsum(-1)
    silent = blanks + torch.logcumsumexp(_before(spoken, first=False) - _before(blanks, first=True), -1)
    forward = torch.stack([spoken, silent], 2)
    return replace(beam, forward=forward, prefix=prefix)


def _take_rows(of: Part, rows: list[int]) -> Part:
    return replace(of, **{one.name: getattr(of, one.name)[rows] for one in fields(of)})


def _take_origins(beam: _Beam, origin: torch.Tensor) -> _Beam:
    """The hypotheses that the next step continues, by their index `origin` [B, K]."""
    rows = torch.arange(len(origin), device=origin.device)[:, None]
    return replace(beam, **{one.name: getattr(beam, one.name)[rows, origin] for one in fields(beam)})
