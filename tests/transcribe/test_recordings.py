"""What a command line names."""

from pathlib import Path

import pytest

from asr_fed.system.errors import UserError
from asr_fed.transcribe.recordings import find_recordings


def test_a_folder_means_the_recordings_below_it(recordings: Path) -> None:
    names = [str(path.relative_to(recordings)) for path in find_recordings([recordings])]
    assert names == ["deep/three.mp3", "deep/two.FLAC", "one.wav"]


def test_files_come_in_the_order_given_and_once(recordings: Path) -> None:
    one = recordings / "one.wav"
    found = find_recordings([one, recordings / "deep", recordings])
    assert [path.name for path in found] == ["one.wav", "three.mp3", "two.FLAC"]
    assert find_recordings([recordings / "notes.txt"]) == [recordings / "notes.txt"]  # named is meant


def test_a_list_has_files_and_folders(recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.txt").write_text("recordings/one.wav\n\nrecordings/deep\nnot there.wav\n")
    found = find_recordings([], Path("list.txt"))
    assert [str(path) for path in found] == [
        "recordings/one.wav",
        "recordings/deep/three.mp3",
        "recordings/deep/two.FLAC",
        "not there.wav",
    ]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_of_another_systems_editor_is_read(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.chdir(recordings)
    (tmp_path / "list.txt").write_bytes("one.wav\r\ndeep\r\n".encode(encoding))
    assert len(find_recordings([], tmp_path / "list.txt")) == 3
    (tmp_path / "list.txt").write_bytes("été.wav\r\n".encode("latin-1"))
    with pytest.raises(UserError, match="is not UTF-8"):
        find_recordings([], tmp_path / "list.txt")


def test_nothing_at_all_is_an_error(tmp_path: Path) -> None:
    for named in ([], [tmp_path]):
        with pytest.raises(UserError, match="nothing to transcribe"):
            find_recordings(named)
    with pytest.raises(UserError, match=r"none\.txt"):
        find_recordings([], tmp_path / "none.txt")


def test_what_a_mac_left_beside_each_file_is_passed_over(recordings: Path, tmp_path: Path) -> None:
    (recordings / "._one.wav").write_bytes(b"Mac OS X")
    assert len(find_recordings([recordings])) == 3
    (tmp_path / "list.txt").write_text(f"{recordings}/._one.wav\n{recordings}/one.wav\n")
    assert find_recordings([], tmp_path / "list.txt") == [recordings / "one.wav"]


def test_nothing_in_a_folder_vanishes(recordings: Path, tmp_path: Path) -> None:
    """Linked recordings and folders are heard; what cannot be is found too, so that it is named."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (recordings / "deep" / "three.mp3").rename(elsewhere / "four.mp3")
    (recordings / "linked").symlink_to(elsewhere)
    (recordings / "again").symlink_to(recordings)  # a circle
    (recordings / "five.wav").symlink_to(recordings / "one.wav")
    (recordings / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    (recordings / "phone.m4a").write_bytes(b"not to be decoded")
    names = [str(path.relative_to(recordings)) for path in find_recordings([recordings])]
    assert names == ["deep/two.FLAC", "five.wav", "gone.wav", "linked/four.mp3", "one.wav", "phone.m4a"]
