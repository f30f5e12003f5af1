"""Settings of the recogniser, its tokens and its decoders."""

from dataclasses import dataclass
from enum import Enum

from asr_fed.config.pretrained import PretrainedConfig
from asr_fed.config.setting import setting


class TokenizerKind(Enum):
    unigram = "unigram"
    bpe = "bpe"
    char = "char"


class Decoder(Enum):
    ctc_greedy = "ctc_greedy"
    attention_greedy = "attention_greedy"
    beam = "beam"


@dataclass
class TokenizerConfig:
    """`vocab_size`: the number of pieces; null for kind=char: every character of the warm-up text."""

    kind: TokenizerKind = TokenizerKind.unigram
    vocab_size: int | None = setting(500, at_least=8)


class EncoderKind(Enum):
    crdnn = "crdnn"
    conformer = "conformer"
    pretrained = "pretrained"


@dataclass
class ModelConfig:
    """An encoder, an attentional GRU decoder, a CTC head (SpeechBrain's modules).

    CRDNN and Conformer begin with convolutions. `rnn_*` and `dnn_*` are the CRDNN's, `conformer_*` the Conformer's. An
    encoder that others have trained is read from `folder`, in Hugging Face format.
    """

    encoder: EncoderKind = EncoderKind.crdnn
    cnn_channels: list[int] = setting([128, 200], at_least=1, items=1)
    cnn_kernel: list[int] = setting([3, 3], at_least=1, items=2, most_items=2)
    pool_2d: bool = False  # each CNN block halves time as well as frequency
    time_pooling: int = setting(4, at_least=1)  # after the CNN
    rnn_layers: int = setting(5, at_least=1)
    rnn_neurons: int = setting(1024, at_least=1)
    dnn_blocks: int = setting(2, at_least=1)
    dnn_neurons: int = setting(1024, at_least=1)
    folder: str | None = None
    pretrained: PretrainedConfig | None = None  # the encoder's shape; asr_fed reads it from the folder
    adapters: int = setting(0, at_least=0)  # neurons of one behind each layer of the encoder; 0: none
    conformer_layers: int = setting(16, at_least=1)
    conformer_neurons: int = setting(256, at_least=2)
    conformer_ffn: int = setting(1024, at_least=1)
    conformer_heads: int = setting(4, at_least=1)
    conformer_kernel: int = setting(31, at_least=1)  # of the convolution over time, in states; odd
    embedding: int = setting(128, at_least=1)
    decoder_neurons: int = setting(1024, at_least=1)
    attention_dim: int = setting(1024, at_least=1)
    attention_channels: int = setting(10, at_least=1)
    attention_kernel: int = setting(100, at_least=1)
    dropout: float = setting(0.15, at_least=0, below=1)

    @property
    def states(self) -> int:
        """Numbers of a state of the encoder."""
        if self.pretrained is not None:
            return self.pretrained.hidden_size
        return self.conformer_neurons if self.encoder is EncoderKind.conformer else self.dnn_neurons


# Prefix of the settings in EvaluationConfig that only a beam search reads.
SEARCH = "beam_"


@dataclass
class EvaluationConfig:
    client_decoder: Decoder = Decoder.ctc_greedy
    dev_decoder: Decoder = Decoder.ctc_greedy
    test_decoder: Decoder = Decoder.beam
    beam_size: int = setting(10, at_least=1)
    beam_ctc_weight: float = setting(0.4, at_least=0, at_most=1)
    # A hypothesis may end if log p(end) >= this * log p of the likeliest token. null: anywhere; hypotheses then become
    # too short, because label smoothing keeps the end's probability above a floor.
    beam_eos_threshold: float | None = setting(1.5, at_least=1)
    beam_temperature: float = setting(1.0, above=0)  # of the attention decoder's softmax; above 1 the search is wider
    # How many encoder frames the attention's peak may move per token. null: no limit.
    beam_max_attention_shift: int | None = setting(None, at_least=1)
    max_seconds_per_batch: float = setting(200.0, above=0)
    report_clips: int = setting(6, at_least=0)  # test recordings to listen to in report.html; 0: none
