"""What can be expected of a client's WER before it is heard: an empirical Bayes estimate from the sums of a round.

A client that judges itself on a few words hardly knows its WER. The model is the gamma-Poisson one of Clayton and
Kaldor (Biometrics 43, 1987): client k makes e_k ~ Poisson(n_k w_k) errors in n_k words, and the clients' true WERs w_k
have the mean m and the variance v. The mean of w_k after e_k was seen is

    w_k* = (v e_k + m^2) / (v n_k + m),

which is e_k / n_k where clients are very different or n_k is large, and m where clients are alike or n_k is small. Of
the K clients of a round that have words, with E = sum e_k, N = sum n_k and Q = sum e_k^2 / n_k,

    m = E / N,    v = max(0, (Q - E^2 / N - (K - 1) m) / (N (1 - 1/K))),

the moments of that model for clients of equal n_k; where these differ v comes out somewhat low. Errors come in
clusters, which Poisson's law does not know: then v comes out high, and WERs are shrunk less than they could be.

Only the three sums and K leave the clients, added up with those of all others; Q of a single client is no more than its
E and N already say. The server sends m and v of the last round with the next order, the same to all, and the client
shrinks its own WER.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from asr_fed.aggregation.update import ONE, fixed


@dataclass(frozen=True)
class Prior:
    """Mean and variance of clients' WERs, as fractions; both 0 where nothing is known yet."""

    wer: float = 0.0
    variance: float = 0.0

    def shrink(self, wer: float, words: int) -> float:
        """The WER to be expected of a client that has heard `words` words with the error rate `wer`."""
        spread = self.variance * words + self.wer
        return (self.variance * words * wer + self.wer**2) / spread if spread > 0 else wer


def squared_errors(errors: int, words: int) -> int:
    """A client's e^2 / n in units of 2**-32, the term that it adds to Q; 0 where it has no words."""
    return fixed(errors**2 / words) if words else 0


def prior_of(totals: Mapping[str, int]) -> Prior:
    """From the sums of a round's clients."""
    errors, words, clients = totals["word_errors"], totals["words"], totals["measured"]
    if words == 0:
        return Prior()
    wer = errors / words
    if clients < 2:
        return Prior(wer)
    excess = totals["squared_errors"] / ONE - errors * wer - (clients - 1) * wer
    return Prior(wer, max(0.0, excess / (words * (1 - 1 / clients))))
