"""Settings of the corpus: which speakers go where, and which features are computed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from asr_fed.config.setting import setting


class WarmUpRule(Enum):
    """Which speakers of the training pool are used for the warm-up."""

    most_audio = "most_audio"
    least_audio = "least_audio"
    random = "random"


class Deal(Enum):
    """How speakers are dealt to `ClientsConfig.count` clients."""

    balanced = "balanced"
    dirichlet = "dirichlet"
    group = "group"


class GroupBy(Enum):
    """The column of the manifest in which clients are homogeneous."""

    accent = "accent"
    gender = "gender"
    age = "age"


class TooSmall(Enum):
    """What happens to a client with less audio than `ClientsConfig.min_seconds`."""

    merge = "merge"
    drop = "drop"


@dataclass
class PartsConfig:
    """Which speakers go where, before the rest becomes clients.

    The training pool is every speaker who is in neither the dev nor the test set of the corpus.

    Test, then dev: the corpus's own (`split` is `test` or `dev`) if it has one. Otherwise `test_speakers` random
    speakers of the pool, or if that is None, as many as fit into `test_share` of the pool's hours (at least one). The
    same for dev.

    Warm-up: speakers of the pool, in the order of `warm_up_rule`, until there are `warm_up_speakers` of them or they
    have `warm_up_hours`, whichever comes first (None: no bound); or exactly the speakers listed in `warm_up_file`, one
    id per line. 0 speakers means no warm-up. The split of arXiv 2104.14297 is `warm_up_speakers=117
    warm_up_rule=most_audio`.

    Utterances of the pool longer than `max_train_seconds` are dropped; those of the corpus's own dev and test are not.

    Held-out (the server trains on it after aggregation): `held_out_speakers` random speakers of the remaining ones. The
    rest is for the clients.

    `transcribed` is the share of the clients that have transcripts; those of the others are hidden, as if they did not
    exist (`asr_fed.data.untranscribed`). `transcribed_file`: instead those of all speakers but the listed ones are, one
    id per line.
    """

    warm_up_speakers: int | None = setting(None, at_least=0)
    warm_up_hours: float | None = setting(None, at_least=0)
    warm_up_file: str | None = None
    warm_up_rule: WarmUpRule = WarmUpRule.most_audio
    held_out_speakers: int = setting(0, at_least=0)
    dev_speakers: int | None = setting(None, at_least=1)
    dev_share: float = setting(0.1, above=0, below=1)
    test_speakers: int | None = setting(None, at_least=1)
    test_share: float = setting(0.1, above=0, below=1)
    max_train_seconds: float | None = setting(None, above=0)
    transcribed: float = setting(1.0, at_least=0, at_most=1)
    transcribed_file: str | None = None


@dataclass
class ClientsConfig:
    """How the remaining speakers become clients.

    `count` None makes one client per speaker (cross-device). A number K deals the speakers to K clients by `deal`:
    `balanced` in hours; `dirichlet`: the clients' shares of the hours are a draw from a symmetric Dirichlet(`alpha`),
    with more skew for smaller alpha; `group`: homogeneous in `group_by` as far as K allows, with balanced hours within
    a group.

    A client with less than `min_seconds` of audio is dropped, or merged with other small clients (of its own group
    first) until the minimum is reached. So fewer than K clients may remain.

    Each client with at least `dev_min_utterances` utterances keeps `dev_fraction` of them (at least one, never all) as
    its own dev part.

    `wrong_transcripts` is a corruption for experiments with weightings, never for a model that is to be used: that
    share of the clients gets the transcripts of other utterances, to train on and in its own dev part
    (`asr_fed.data.wrong_transcripts`).
    """

    count: int | None = setting(None, at_least=1)
    deal: Deal = Deal.balanced
    alpha: float = setting(1.0, above=0)
    group_by: GroupBy = GroupBy.accent
    min_seconds: float = setting(0.0, at_least=0)
    too_small: TooSmall = TooSmall.merge
    dev_fraction: float = setting(0.0, at_least=0, below=1)
    dev_min_utterances: int = setting(10, at_least=2)
    wrong_transcripts: float = setting(0.0, at_least=0, at_most=1)


@dataclass
class DataConfig:
    name: str = MISSING
    language: str = MISSING
    root: str = MISSING  # the corpus on disk
    prepared: str = "prepared/${data.name}"  # manifest and features: shared by all runs on this corpus
    prepare: Any = None  # `_target_`: a function in asr_fed/data_prep; null: the manifest is there already
    parts: PartsConfig = field(default_factory=PartsConfig)


class FeatureKind(Enum):
    """What an encoder reads: log-mel frames, or the samples themselves."""

    log_mel = "log_mel"
    waveform = "waveform"


@dataclass
class FeatureConfig:
    """Log-mel filterbank; durations in milliseconds. Of a waveform `sample_rate` says all."""

    kind: FeatureKind = FeatureKind.log_mel
    sample_rate: int = setting(16000, at_least=1000)
    n_mels: int = setting(80, at_least=1)
    n_fft: int = setting(400, at_least=1)
    win_ms: int = setting(25, at_least=1)
    hop_ms: int = setting(10, at_least=1)
    subtract_mean: bool = False  # of each utterance, per band: removes the frequency response of the microphone
    # Frames farther below the loud ones, or nearer to the noise than to them, are pauses and do not count in that mean;
    # null: all count, as for recognisers of version 0.1.
    mean_gate_db: float | None = setting(15.0, above=0)

    @property
    def width(self) -> int:
        """Numbers of a frame. A frame of a waveform is one sample."""
        return self.n_mels if self.kind is FeatureKind.log_mel else 1

    @property
    def frame_ms(self) -> float:
        """From one frame to the next."""
        return self.hop_ms if self.kind is FeatureKind.log_mel else 1000 / self.sample_rate

    @property
    def identity(self) -> dict[str, Any]:
        """What the content of features depends on, as plain values."""
        if self.kind is FeatureKind.waveform:
            return {"kind": self.kind.name, "sample_rate": self.sample_rate}
        return {name: value for name, value in asdict(self).items() if name != "kind"}

    @classmethod
    def saved(cls, content: Mapping[str, Any]) -> "FeatureConfig":
        """The settings that a recogniser was saved with, also by version 0.1."""
        return cls(**{**({"mean_gate_db": None} if content.get("subtract_mean") else {}), **content})
