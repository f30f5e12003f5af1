"""The weight a_k of a client's update. Only ratios of weights matter: the server divides by their sum.

Each weighting is a function of what the client knows about itself, so a_k is computed where the speech is. Its `bounds`
say which weights a client with n_k utterances can have: the server refuses an update with any other weight.
`num_examples_power` p multiplies any softmax weight by n_k ** p.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from asr_fed.aggregation.prior import Prior

# Loss weights stay between these bounds (a client at the reference loss has weight 1). A smaller weight would add
# nothing to a sum with 32 binary places; a larger one would outweigh all other clients.
LEAST, MOST = 2.0**-16, 2.0**16


@dataclass(frozen=True)
class Measured:
    """What a weight may depend on.

    wer: word errors over words, after local training, on speech that the client holds back where it has enough.
    loss: mean training loss of the last local epoch.
    reference_loss: roughly the clients' present loss; the server sends the same value to all, with the order.
    words: how many words of speech `wer` is of.
    prior: what the last round's clients say of a client's WER; sent with the order too.
    """

    num_examples: int
    wer: float
    loss: float
    reference_loss: float = 0.0
    words: int = 0
    prior: Prior = field(default_factory=Prior)


# A weighting: any callable that computes a_k from what a client has measured. It may have `bounds`, see below.
Weighting = Callable[[Measured], float]


def _check_temperature(temperature: float) -> None:
    # exp(1 / 0.1) = 22,026. Below, one client outweighs all others, or the sums leave their exact range.
    if temperature < 0.1:
        raise ValueError(f"temperature={temperature} must be at least 0.1")


@dataclass(frozen=True)
class Uniform:
    """a_k = 1."""

    def __call__(self, client: Measured) -> float:
        return 1.0

    def bounds(self, num_examples: int) -> tuple[float, float]:
        return 1.0, 1.0


@dataclass(frozen=True)
class NumExamples:
    """a_k = n_k: FedAvg, arXiv 1602.05629."""

    def __call__(self, client: Measured) -> float:
        return float(client.num_examples)

    def bounds(self, num_examples: int) -> tuple[float, float]:
        return float(num_examples), float(num_examples)


@dataclass(frozen=True)
class LossSoftmax:
    """a_k = exp(-loss_k / T): arXiv 2104.14297.

    Computed as exp((reference - loss_k) / T) and kept between 2**-16 and 2**16. The softmax is the same, but it neither
    underflows when all losses are high nor overflows when they are low.
    """

    temperature: float = 1.0
    num_examples_power: float = 0.0

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)

    def __call__(self, client: Measured) -> float:
        least, most = math.log(LEAST), math.log(MOST)
        exponent = (client.reference_loss - client.loss) / self.temperature
        return math.exp(min(max(exponent, least), most)) * math.pow(client.num_examples, self.num_examples_power)

    def bounds(self, num_examples: int) -> tuple[float, float]:
        size = math.pow(num_examples, self.num_examples_power)
        return LEAST * size, MOST * size


@dataclass(frozen=True)
class WerSoftmax:
    """a_k = exp((1 - wer_k) / T), wer as a fraction clipped to [0, 1]: arXiv 2104.14297.

    Divided by their sum these are softmax(1 - wer). With T = 1 a weight lies between 1 and e.

    With `shrink` wer_k is the one to be expected of the client, from its own few words and from what the clients of the
    last round have made of theirs (`asr_fed.aggregation.prior`). The first round knows nothing of that and shrinks
    nothing.
    """

    temperature: float = 1.0
    num_examples_power: float = 0.0
    shrink: bool = False

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)

    def __call__(self, client: Measured) -> float:
        wer = client.prior.shrink(client.wer, client.words) if self.shrink else client.wer
        wer = min(max(wer, 0.0), 1.0)
        return math.exp((1 - wer) / self.temperature) * math.pow(client.num_examples, self.num_examples_power)

    def bounds(self, num_examples: int) -> tuple[float, float]:
        size = math.pow(num_examples, self.num_examples_power)
        return size, math.exp(1 / self.temperature) * size


def weight_bounds(weighting: object, num_examples: int) -> tuple[float, float]:
    """Least and largest weight that a client can have; a weighting without `bounds` allows any weight above 0."""
    bounds = getattr(weighting, "bounds", None)
    return bounds(num_examples) if bounds is not None else (0.0, math.inf)


def weight_bounds_up_to(weighting: object, num_examples: int) -> tuple[float, float]:
    """The same for a client that may have trained on fewer utterances, or on none: then it adds a delta of 0 with
    `LEAST_WEIGHT`."""
    return 0.0, max(weight_bounds(weighting, count)[1] for count in (1, num_examples))
