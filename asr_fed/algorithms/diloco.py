"""DiLoCo, arXiv 2311.08105: the state of a client's optimizer stays with its owner from one round to the next."""

from dataclasses import dataclass

from asr_fed.algorithms.algorithm import ClientStep, Kept, Vectors
from asr_fed.algorithms.fed_avg import FedAvg
from asr_fed.training.local import LocalTask, train_client

OPTIMIZER = "optimizer"


@dataclass(frozen=True)
class DiLoCo(FedAvg):
    """Client i:  (y, s_i) = E epochs of the local optimizer from (w, s_i);  delta_i = y - w.
    Server: an outer step with the mean delta.

    s_i is the optimizer's state, such as AdamW's step count and moments. It is never sent. It is as large as the
    optimizer makes it, for Adam twice the weights, on the disk of the owner of each client. In the paper the inner
    optimizer is AdamW (`federation.optimizer`) and the outer one Nesterov's (`server=nesterov`).
    """

    def client(self, task: LocalTask, sent: Vectors, kept: Kept) -> ClientStep:
        result = train_client(task, optimizer_state=kept.get(OPTIMIZER))
        return ClientStep(result, kept={OPTIMIZER: result.optimizer_state})
