"""How an encoder's states vary: between utterances or within them, and in how many directions.

An encoder that has learned to tell channels apart, and little of what is said, has states that differ from utterance to
utterance and hardly within one; one that has collapsed has few directions (recipes/self_supervised_cv_shape). The loss
shows neither. Encoders that have diverged have NaN.
"""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class StateVariance:
    """Sums over states x of utterances u, of which each has n_u with the mean x_u."""

    states: int = 0
    total: np.ndarray = field(default_factory=lambda: np.zeros(()))  # sum of x
    products: np.ndarray = field(default_factory=lambda: np.zeros(()))  # sum of x x^T
    means: np.ndarray = field(default_factory=lambda: np.zeros(()))  # sum of n_u x_u^2

    def add(self, utterance: np.ndarray) -> None:
        """The states of an utterance, float64 [n_u, numbers of a state]."""
        self.states += len(utterance)
        self.total = self.total + utterance.sum(0)
        self.products = self.products + utterance.T @ utterance
        self.means = self.means + len(utterance) * utterance.mean(0) ** 2

    @property
    def between(self) -> float:
        """Percent of the variance that lies between utterances: sum_u n_u |x_u - x|^2 / sum |x_u,t - x|^2."""
        square = self.total**2 / self.states
        whole = float((np.diag(self.products) - square).sum())
        return 0.0 if whole <= 0 else 100 * float((self.means - square).sum()) / whole

    @property
    def effective_rank(self) -> float:
        """Directions that hold the variance: tr(C)^2 / tr(C^2) of the covariance C, which is 1 / sum of its
        eigenvalues' squared shares."""
        covariance = self.products - np.outer(self.total, self.total) / self.states
        squares = float((covariance**2).sum())
        return 0.0 if squares == 0 else float(np.trace(covariance)) ** 2 / squares
