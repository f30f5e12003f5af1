from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_fed.data.identity import looks
from asr_fed.data.manifest import Utterance, hours, read_manifest, write_manifest
from asr_fed.system.errors import UserError

# What a CSV cell must survive: separators, quotes, line breaks, any script.
cell = st.text(
    st.sampled_from(" ,;\"\t\n'éß東\u0301") | st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1
).filter(str.strip)


@given(
    st.lists(
        st.builds(
            Utterance,
            id=cell,
            duration=st.integers(1, 10**7).map(lambda ticks: ticks / 10**4),
            wav=cell.map(lambda name: f"/corpus/{name.replace('/', '_')}"),
            speaker=cell,
            text=cell,
            accent=cell | st.just(""),
        ),
        max_size=4,
        unique_by=(lambda utterance: utterance.id, lambda utterance: looks(utterance.speaker)),
    )
)
def test_what_is_written_reads_back(tmp_path_factory: pytest.TempPathFactory, utterances: list[Utterance]) -> None:
    path = tmp_path_factory.mktemp("manifest") / "manifest.csv"
    write_manifest(path, utterances)
    assert read_manifest(path) == utterances


def test_the_columns_are_speechbrains_and_relative_audio_lies_beside_the_manifest(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text("ID,duration,wav,spk_id,wrd\na,1.5,clips/a.wav,anne,oui\nb,2.5,/b.wav,bob,non\n")
    first, second = read_manifest(path)
    assert (first.wav, second.wav) == (str(tmp_path / "clips" / "a.wav"), "/b.wav")
    assert hours([first, second]) == pytest.approx(4 / 3600)
    write_manifest(path, [first])
    assert path.read_text().startswith("ID,duration,wav,spk_id,wrd,locale,gender,age,accent,split")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no manifest"),
        ("ID,duration,wav,wrd\n", r"column\(s\) spk_id missing"),
        ("ID,duration,wav,spk_id,wrd\na,1,w,s,\n", r"line 2: the transcript \(wrd\) is empty"),
        ("ID,duration,wav,spk_id,wrd\na,1,w\n", "line 2: 3 fields, but the header has 5"),
        ("ID,duration,wav,spk_id,wrd\na,1,w,\u00a0,t\n", "line 2: a required column is empty"),
        ("ID,duration,wav,spk_id,wrd\na,1,w,s,oui, merci\n", "line 2: 6 fields"),
        ("ID,duration,wav,spk_id,wrd\na,long,w,s,t\n", "'long' is not a number"),
        ("ID,duration,wav,spk_id,wrd\na,nan,w,s,t\n", "not a positive number"),
        ("ID,duration,wav,spk_id,wrd\na,1,w,s,t\na,1,w,s,t\n", "line 3: the ID 'a' occurs twice"),
    ],
)
def test_bad_manifests_are_refused_with_the_place(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "manifest.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_manifest(path)


def test_a_failed_write_leaves_the_older_manifest(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    write_manifest(path, [Utterance("a", 1.0, "/a.wav", "s", "oui")])
    before = path.read_text()
    with pytest.raises(AttributeError):
        write_manifest(path, [Utterance("b", 1.0, "/b.wav", "s", "non"), None])  # type: ignore[list-item]
    assert path.read_text() == before
