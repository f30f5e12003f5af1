"""Coarse uploads in rounds: the same bits on one node and two and after a kill, fewer bytes, and it still learns."""

from collections.abc import Callable

import pytest

from asr_fed.config.check import check_config
from asr_fed.runs.experiment import OpenRun
from asr_fed.system.errors import UserError
from tests.federation.same_bits import same_bits
from tests.federation.test_rounds import make, run

__all__ = ["make"]  # a fixture

EVERYBODY = ("federation.cohort=null", "federation.rounds=2")
UPLOADS = {
    "8 bits": ("federation.upload.bits=8",),
    "8 bits, fed back": ("federation.upload.bits=8", "federation.upload.error_feedback=true"),
    "top-k, fed back": (
        *("federation.upload.bits=12", "federation.upload.keep=0.05", "federation.upload.error_feedback=true"),
        "algorithm._target_=asr_fed.algorithms.scaffold.Scaffold",  # which keeps something of its clients as well
    ),
}


@pytest.mark.parametrize("changes", UPLOADS.values(), ids=UPLOADS)
def test_the_same_bits_on_any_node_and_after_a_kill(make: Callable[..., OpenRun], changes: tuple[str, ...]) -> None:
    same_bits(make, (*EVERYBODY, *changes))


def test_fewer_bytes_go_up(make: Callable[..., OpenRun]) -> None:
    """One client a round: its node's sum is its own. The small tensors of a small model share blocks."""

    def bytes_up(*changes: str, name: str) -> int:
        return run(make("federation.cohort=1", "federation.rounds=1", *changes, name=name)).history[0].bytes_up

    exact = bytes_up(name="exact")
    eight = bytes_up("federation.upload.bits=8", name="eight")
    few = bytes_up("federation.upload.bits=8", "federation.upload.keep=0.02", name="few")
    assert eight < 0.6 * exact and few < eight / 2


def test_feedback_needs_something_to_feed_back(make: Callable[..., OpenRun]) -> None:
    from omegaconf import OmegaConf

    config = make("federation.upload.error_feedback=true").config
    with pytest.raises(UserError, match=r"federation.upload.error_feedback=true has nothing to feed back"):
        check_config(OmegaConf.structured(config))
