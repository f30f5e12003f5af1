"""The name of a generated corpus's folder."""

from pathlib import Path

import pytest

from asr_fed.data_prep.synthetic_folder import digest

SOURCE = '''
"""What it makes."""

class Voice:
    """A voice."""

    pitch = 120.0  # Hz

def say(text: str) -> str:
    """Speak."""
    return "said: " + text
'''


@pytest.mark.parametrize(
    ("change", "another"),
    [
        (('"""What it makes."""', ""), False),
        (('"""A voice."""', '"""A voice, or two."""'), False),
        (('    """Speak."""\n', "\n"), False),
        (("# Hz", "# in Hz"), False),
        (("120.0", "121.0"), True),
        (("said: ", "he said: "), True),
        (("def say", "def tell"), True),
    ],
)
def test_a_corpus_is_made_again_where_the_code_changes_and_not_where_its_explanation_does(
    change: tuple[str, str], another: bool, tmp_path: Path
) -> None:
    generator = tmp_path / "generator.py"
    generator.write_text(SOURCE)
    before = digest({"speakers": 2}, [str(generator)])
    generator.write_text(SOURCE.replace(*change))
    assert (digest({"speakers": 2}, [str(generator)]) != before) is another
    assert digest({"speakers": 3}, [str(generator)]) != digest({"speakers": 2}, [str(generator)])
