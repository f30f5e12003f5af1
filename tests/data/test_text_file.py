"""What editors and spreadsheets save is read; what cannot be told is refused in a sentence."""

from pathlib import Path

import pytest

from asr_fed.data.text_file import read_lines, read_table, read_text
from asr_fed.system.errors import UserError

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_unicode_encoding_and_line_end_gives_the_same(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(f" été {end}{end}noël{end}".encode(encoding))
    assert read_text(path) == " été \n\nnoël\n"
    assert read_lines(path) == ["été", "noël"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_table_is_read_in_every_unicode_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes('who,said\r\nanné,"où, là"\r\n\r\nbob,"two\nlines"\r\n'.encode(encoding))
    assert list(read_table(path, ["who"])) == [
        (2, {"who": "anné", "said": "où, là"}),
        (5, {"who": "bob", "said": "two\nlines"}),
    ]


@pytest.mark.parametrize("read", [read_text, read_lines, lambda path: list(read_table(path, ["who"]))])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("who\nété\n".encode("latin-1"), "is not UTF-8.*iconv -f latin1"),
        ("who\nété\n".encode("utf-16")[:-1], "is not UTF-8"),  # cut in the middle of a character
        ("who\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (None, "cannot be read: No such file"),
    ],
)
def test_what_is_not_unicode_is_refused_in_a_sentence(tmp_path: Path, read, content: bytes | None, told: str) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=told) as refused:
        read(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("who;said\na;b\n", "separated by semicolons, not by commas"),
        ("who\tsaid\na\tb\n", "separated by tabs"),
        ("who,when\na,b\n", r"column\(s\) said missing. Found: who, when"),
        ("who,said,who\na,b,c\n", "who occur twice"),
        ("who,said\na,b\nc,d, e\n", "line 3: 3 fields, but the header has 2.*quotation marks"),
        ("who,said\na\n", "line 2: 1 fields"),
        ("", "is empty"),
    ],
)
def test_a_table_that_would_be_misread_is_refused(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=told):
        list(read_table(path, ["who", "said"]))
