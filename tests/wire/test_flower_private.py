"""The contract with Flower's private names: a new release that breaks it fails here, and only here by name."""

import ast
from importlib.metadata import version
from pathlib import Path

from flwr.app import Message, MessageType, RecordDict

import asr_fed
from asr_fed.wire.flower_private import identify_process, set_message_id

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


ROOMS_WITH_FLOWER = ("wire", "federation", "engines", "deployment", "interop")


def test_private_names_are_imported_in_six_files_and_flower_in_few_packages() -> None:
    """The others have their contract in test_inflate.py, test_careful_grid.py and, in tests/engines/deployment,
    test_supernode_tasks.py and test_federation.py (control.py)."""
    package = Path(asr_fed.__file__).parent
    private = [package / "wire" / name for name in ("flower_private.py", "inflate.py", "careful_grid.py")]
    private += [package / "engines" / "deployment" / name for name in ("supernode_tasks.py", "supernode_loop.py")]
    private.append(package / "engines" / "deployment" / "control.py")
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                if name.split(".")[0] == "flwr":
                    assert path.parent.name in ("wire", "federation", "engines", "deployment", "interop"), (
                        f"{path} imports {name}"
                    )
                    assert path in private or name in PUBLIC, f"{path} imports {name}"
