"""The house: rooms import downwards only. docs/architecture.md has the picture."""

import ast
from pathlib import Path

import pytest

import asr_fed

PACKAGE = Path(asr_fed.__file__).parent
# From the bottom to the top: a room may import those before it.
ROOMS = (
    "system",
    "config",
    "data",
    "data_prep",
    "model",
    "evaluation",
    "training",
    "tasks",
    "aggregation",
    "algorithms",
    "wire",
    "interop",
    "simulation",
    "runs",
    "carbon",
    "federation",
    "engines",
    "transcribe",
    "reporting",
    "pipeline",
    "commands",
)
# Modules that only start a command, so that `python -m asr_fed.NAME` works.
STARTERS = ("compare.py", "deployment.py", "export.py", "measure.py", "personalise.py", "__main__.py")


def imports(path: Path) -> list[tuple[int, str]]:
    """Line and room of each import of asr_fed."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("asr_fed."):
            found.append((node.lineno, str(node.module).split(".")[1]))
        if isinstance(node, ast.Import):
            found += [(node.lineno, name.name.split(".")[1]) for name in node.names if name.name.startswith("asr_fed.")]
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_rooms_below_it_only(room: str) -> None:
    allowed = ROOMS[: ROOMS.index(room) + 1]
    for path in (PACKAGE / room).rglob("*.py"):
        if path.name == "__main__.py" or path == PACKAGE / "simulation" / "measure.py":
            continue
        for line, other in imports(path):
            assert other in allowed, (
                f"{path.relative_to(PACKAGE)}:{line} imports asr_fed.{other}, which is above {room}"
            )


def test_every_package_is_a_room_and_nothing_stands_loose() -> None:
    packages = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").is_file()}
    assert packages == set(ROOMS)
    assert {path.name for path in PACKAGE.glob("*.py")} <= {"__init__.py", *STARTERS}


def test_text_for_the_terminal_is_printed_as_it_is() -> None:
    """Names of files and clients may have brackets, which rich would take for markup or refuse."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Console":
                off = {
                    word.arg
                    for word in node.keywords
                    if isinstance(word.value, ast.Constant) and word.value.value is False
                }
                where = f"{path.relative_to(PACKAGE)}:{node.lineno}"
                assert {"markup", "emoji"} <= off, f"{where}: Console(..., markup=False, emoji=False)"


def test_no_page_holds_the_marks_of_an_unsolved_merge() -> None:
    """Of code the linter would tell."""
    root = PACKAGE.parent
    pages = [
        *root.glob("*.md"),
        *(page for folder in ("docs", "recipes", "hparams") for page in (root / folder).rglob("*")),
    ]
    read = [page for page in pages if page.suffix in {".md", ".yaml", ".csv"}]
    assert len(read) > 50
    marked = [
        page for page in read if any(line.startswith(("<<<<<<< ", ">>>>>>> ")) for line in page.open(encoding="utf-8"))
    ]
    assert not marked
