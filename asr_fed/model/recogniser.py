"""The acoustic model with its loss, and the bundle that makes a checkpoint usable on its own."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from speechbrain.nnet.embedding import Embedding
from speechbrain.nnet.linear import Linear
from speechbrain.nnet.RNN import AttentionalRNNDecoder
from torch.nn import functional

from asr_fed.config.schema import FeatureConfig, LossConfig, ModelConfig
from asr_fed.data.batching import Batch
from asr_fed.data.tokenizer import BLANK, BOS, EOS, Tokenizer
from asr_fed.model import pretrainer
from asr_fed.model.adapters import is_of_adapter
from asr_fed.model.backbone import Backbone
from asr_fed.model.teacher_forcing import teacher_forced
from asr_fed.model.tuning import merged_state
from asr_fed.model.typed import plain, typed
from asr_fed.system.checkpoint import load_checkpoint, save_checkpoint
from asr_fed.system.errors import UserError

IGNORED = -100

T = TypeVar("T")


class AcousticModel(Backbone):
    """Normaliser, encoder, CTC head and attentional GRU decoder."""

    def __init__(self, config: ModelConfig, width: int, vocabulary: int) -> None:
        super().__init__(config, width)
        self.ctc_head = Linear(input_size=config.states, n_neurons=vocabulary)
        self.embedding = Embedding(num_embeddings=vocabulary, embedding_dim=config.embedding)
        self.decoder = AttentionalRNNDecoder(
            rnn_type="gru",
            attn_type="location",
            hidden_size=config.decoder_neurons,
            attn_dim=config.attention_dim,
            num_layers=1,
            enc_dim=config.states,
            input_size=config.embedding,
            channels=config.attention_channels,
            kernel_size=config.attention_kernel,
            dropout=config.dropout,
        )
        self.decoder_head = Linear(input_size=config.decoder_neurons, n_neurons=vocabulary)

    def encode(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """States [batch, time, config.states] and their number, int64 [batch], for unnormalised features."""
        states_and_counts: tuple[torch.Tensor, torch.Tensor] = self.encoder(
            self.normalise(batch.features), batch.frames
        )
        return states_and_counts

    def ctc_log_probs(self, states: torch.Tensor) -> torch.Tensor:
        """float32 [batch, time, vocabulary]."""
        log_probs: torch.Tensor = self.ctc_head(states).float().log_softmax(-1)
        return log_probs

    def loss(self, normalised: torch.Tensor, batch: Batch, config: LossConfig, *, with_ctc: bool) -> torch.Tensor:
        """ctc_weight * CTC + (1 - ctc_weight) * NLL, NLL alone without CTC.

        NLL is the mean over tokens. CTC is the mean over utterances of the loss per token (as in torch). The loss is
        infinite if CTC cannot align one of the transcripts.

        `normalised` are the batch's features after normalisation and augmentation.
        """
        states, counts = self.encoder(normalised, batch.frames)
        weight = config.ctc_weight if with_ctc else 0.0
        loss: torch.Tensor = states.new_zeros(())
        if weight < 1:
            loss = loss + (1 - weight) * self._nll(states, counts, batch, config.label_smoothing)
        if weight > 0:
            loss = loss + weight * self._ctc(states, counts, batch)
        return loss

    def _ctc(self, states: torch.Tensor, counts: torch.Tensor, batch: Batch) -> torch.Tensor:
        log_probs = self.ctc_log_probs(states).transpose(0, 1)
        log_probs = log_probs.cpu()  # MPS has no kernel for CTC, and CUDA's adds gradients up in no fixed order
        tokens, counts, token_counts = (x.to(log_probs.device) for x in (batch.tokens, counts, batch.token_counts))
        loss = functional.ctc_loss(log_probs, tokens, counts, token_counts, blank=BLANK)
        return loss.to(states.device)

    def _nll(self, states: torch.Tensor, counts: torch.Tensor, batch: Batch, smoothing: float) -> torch.Tensor:
        tokens, ends = batch.tokens, batch.token_counts[:, None]
        column = torch.arange(tokens.shape[1] + 1, device=tokens.device)
        inputs = functional.pad(tokens, (1, 0), value=BOS)
        targets = functional.pad(tokens, (0, 1)).masked_fill(column == ends, EOS).masked_fill(column > ends, IGNORED)
        outputs = teacher_forced(self.decoder, self.embedding(inputs), states, counts)
        logits = self.decoder_head(outputs).float()
        # One row a token: the kernel for [batch, tokens, length] adds up in no fixed order on CUDA.
        return functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, label_smoothing=smoothing
        )


@dataclass(frozen=True)
class Recogniser:
    """Everything that turns speech into text: a checkpoint of it needs nothing else.

    ctc_weight: of the training loss, which determines the decoders that can be used; None if unknown.
    """

    model: AcousticModel
    tokenizer: Tokenizer
    model_config: ModelConfig
    features: FeatureConfig
    ctc_weight: float | None = None

    @classmethod
    def create(cls, model_config: ModelConfig, features: FeatureConfig, tokenizer: Tokenizer) -> "Recogniser":
        """A recogniser with fresh weights, drawn from torch's current random state."""
        return cls(AcousticModel(model_config, features.width, len(tokenizer)), tokenizer, model_config, features)

    def with_adapters(self, size: int) -> "Recogniser":
        """The same recogniser with adapters of so many neurons, if it has none yet: it computes what it did.

        What they begin with is drawn from torch's current random state.
        """
        if not size or self.model_config.adapters:
            return self
        grown = self.create(dataclasses.replace(self.model_config, adapters=size), self.features, self.tokenizer)
        absent, _ = grown.model.load_state_dict(self.model.state_dict(), strict=False)
        assert all(map(is_of_adapter, absent)), absent
        return dataclasses.replace(grown, ctc_weight=self.ctc_weight)

    def trained_by(self, loss: LossConfig) -> "Recogniser":
        """The same recogniser; its checkpoints will note this loss."""
        return dataclasses.replace(self, ctc_weight=loss.ctc_weight)

    def to_dict(self) -> dict[str, Any]:
        """Plain tensors and values, safe to load with `weights_only`."""
        return {
            "model": {name: tensor.cpu() for name, tensor in merged_state(self.model).items()},
            "tokenizer": self.tokenizer.proto,
            "model_config": plain(dataclasses.replace(self.model_config, folder=None)),
            "features": plain(self.features),
            "ctc_weight": self.ctc_weight,
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Recogniser":
        model_config = typed(ModelConfig, content["model_config"])
        features = typed(FeatureConfig, dataclasses.asdict(FeatureConfig.saved(content["features"])))
        recogniser = cls.create(model_config, features, Tokenizer(content["tokenizer"]))
        recogniser.model.load_state_dict(content["model"])
        weight = content.get("ctc_weight")  # 0.1.0 did not note it
        return dataclasses.replace(recogniser, ctc_weight=None if weight is None else float(weight))


def config_keys(features: FeatureConfig, model: ModelConfig) -> list[str]:
    """KEY=VALUE, as on the command line, for each of these settings but the encoder's folder, which may have moved."""
    return _keys("", {"features": plain(features), "model": plain(dataclasses.replace(model, folder=None))})


def _keys(prefix: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [key for name, inner in value.items() for key in _keys(f"{prefix}.{name}".lstrip("."), inner)]
    return [f"{prefix}={'null' if value is None else value}".replace(" ", "")]


def save_recogniser(recogniser: Recogniser, path: Path) -> None:
    save_checkpoint({"recogniser": recogniser.to_dict()}, path)


def load_recogniser(path: str | Path) -> Recogniser:
    """Open any checkpoint that holds a recogniser.

    Raises UserError where the file is missing or holds none.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no checkpoint at {path}.")
    content = None
    try:
        content = load_checkpoint(path)
        return Recogniser.from_dict(content["recogniser"])
    except Exception as error:  # a foreign file can fail in many ways
        if isinstance(content, dict) and pretrainer.KEY in content:
            raise UserError(
                f"{path} is of a pre-training, which recognises nothing: give checkpoints/fine_tuned.pt of its run, or "
                "fine-tune its encoder (warm_start.encoder=RUN, docs/self_supervised.md)."
            ) from error
        raise UserError(f"{path} does not hold a recogniser of asr_fed: {error}") from error
