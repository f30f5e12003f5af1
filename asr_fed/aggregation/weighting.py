"""The weight a_k of a client's update. Only ratios of weights matter: the server divides by their sum.

Each weighting is a function of what the client knows about itself, so a_k is computed where the speech is. Its
`bounds` say what the server can expect of a client with n_k utterances: an update with a weight outside is refused.
`num_examples_power` p multiplies any softmax weight by n_k ** p.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

# Loss weights are kept within these factors of a client at the reference loss: what lies below adds nothing to a sum
# of 32 binary places, and one client above would be all that counts.
LEAST, MOST = 2.0**-16, 2.0**16


@dataclass(frozen=True)
class Measured:
    """What a weight may depend on.

    wer: word errors over words, after local training, on speech that the client holds back where it has enough.
    loss: mean training loss of the last local epoch.
    reference_loss: about the loss that clients have now; the server sends it with the order, the same to all.
    """

    num_examples: int
    wer: float
    loss: float
    reference_loss: float = 0.0


# A weighting: any callable that makes a_k of what a client has measured. It may have `bounds`, see below.
Weighting = Callable[[Measured], float]


def _check_temperature(temperature: float) -> None:
    # exp(1 / 0.1) = 22,026: colder, and one client is all that counts, or the sums leave their exact range.
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

    Computed as exp((reference - loss_k) / T), which is the same softmax and neither underflows where all losses are
    high nor overflows where they are low, and kept between 2**-16 and 2**16.
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
    """

    temperature: float = 1.0
    num_examples_power: float = 0.0

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)

    def __call__(self, client: Measured) -> float:
        wer = min(max(client.wer, 0.0), 1.0)
        return math.exp((1 - wer) / self.temperature) * math.pow(client.num_examples, self.num_examples_power)

    def bounds(self, num_examples: int) -> tuple[float, float]:
        size = math.pow(num_examples, self.num_examples_power)
        return size, math.exp(1 / self.temperature) * size


def weight_bounds(weighting: object, num_examples: int) -> tuple[float, float]:
    """Least and largest weight of a client; of a weighting that does not say, anything above 0."""
    bounds = getattr(weighting, "bounds", None)
    return bounds(num_examples) if bounds is not None else (0.0, math.inf)
