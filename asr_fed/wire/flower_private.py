"""The private names of Flower 1.41 that rounds use, except for those in inflate.py and careful_grid.py.

Private names that a node uses are in asr_fed/engines/deployment/supernode_tasks.py and supernode_loop.py, those that
the operator of a server uses in control.py there.
tests/wire/test_flower_private.py checks that Flower still has them: with a new release, look there first.
"""

from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["identify_process", "set_message_id"]


def identify_process(run_id: int, node_id: int) -> None:
    """What Flower's launchers do before an app runs; without it no Message can be made."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, run_id, node_id


def set_message_id(message: Message, message_id: str) -> None:
    """What a SuperLink does with a message that it accepts."""
    vars(message.metadata)["_message_id"] = message_id
