"""The contract with Flower's private names: a new release that breaks it fails here, and only here by name."""

import ast
from importlib.metadata import version
from pathlib import Path

from flwr.app import ArrayRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

import asr_fed
from asr_fed.aggregation.server_optimizer import FLOWER_STATE
from asr_fed.wire import flower_private
from asr_fed.wire.flower_private import Run, identify_process, message_of_no_one, set_message_id

PUBLIC = {"flwr.app", "flwr.serverapp", "flwr.serverapp.strategy", "flwr.clientapp"}


def test_the_release_is_the_one_that_this_was_written_for() -> None:
    assert version("flwr") == "1.41.0"


def test_a_process_can_be_identified_and_then_make_messages() -> None:
    identify_process(run_id=5, node_id=9)
    message = Message(RecordDict(), 3, MessageType.TRAIN)
    assert (message.metadata.run_id, message.metadata.src_node_id, message.metadata.dst_node_id) == (5, 9, 3)


def test_a_message_takes_an_id_that_its_reply_refers_to() -> None:
    identify_process(run_id=1, node_id=0)
    message = Message(RecordDict(), 3, MessageType.TRAIN)
    set_message_id(message, "17")
    assert message.metadata.message_id == "17"
    identify_process(run_id=1, node_id=3)
    reply = Message(RecordDict(), reply_to=message)
    assert reply.metadata.reply_to_message_id == "17"
    assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (3, 0)


def test_a_message_of_no_one_carries_its_content() -> None:
    content = RecordDict({"arrays": ArrayRecord()})
    message = message_of_no_one(content)
    assert message.content is content
    assert not message.has_error()


def test_a_run_can_be_made_and_a_grid_still_asks_for_the_same() -> None:
    assert Run.create_empty(run_id=1).run_id == 1
    expected = {"run", "create_message", "get_node_ids", "push_messages", "pull_messages", "send_and_receive"}
    assert Grid.__abstractmethods__ - {"set_run"} == expected


def test_the_strategies_still_keep_their_state_under_these_names() -> None:
    from flwr.serverapp.strategy import FedAdam, FedAvgM

    assert {"m_t", "v_t", "current_arrays"} <= vars(FedAdam()).keys()
    assert {"momentum_vector", "current_arrays"} <= vars(FedAvgM()).keys()
    assert FLOWER_STATE == ("m_t", "v_t", "momentum_vector")


ROOMS_WITH_FLOWER = ("aggregation", "wire", "federation", "engines", "deployment")


def test_private_names_are_imported_in_three_files_and_flower_in_few_packages() -> None:
    """The other two have their contract in tests/engines/deployment/test_supernode_tasks.py."""
    package = Path(asr_fed.__file__).parent
    private = [Path(flower_private.__file__)]
    private += [package / "engines" / "deployment" / name for name in ("supernode_tasks.py", "supernode_loop.py")]
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                if name.split(".")[0] == "flwr":
                    assert path.parent.name in ("aggregation", "wire", "federation", "engines", "deployment"), (
                        f"{path} imports {name}"
                    )
                    assert path in private or name in PUBLIC, f"{path} imports {name}"
