"""What a user writes behind a key arrives, or the key is named and how to write it."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from asr_fed.commands.overrides import hydra_words
from asr_fed.system.errors import UserError


def arrives(*words: str) -> dict[str, object]:
    """By key, the values that Hydra reads."""
    overrides = OverridesParser.create().parse_overrides(hydra_words(words)[1])
    values = {each.key_or_group: each.value() for each in overrides}
    return {key: getattr(value, "text", value) for key, value in values.items()}


PATHS = [
    *("/data/a=b", "/data/corpus(1)", "/home/rené/en", "~/corpora/en", "/data/a,b", "/data/a b", "/data/it's", '/a"b'),
    *(
        "/data/{x}",
        "/data/[x]",
        "1e5",
        "007",
        "true",
        "C:\\corpora",
        "/data/日本",
        "/data/#1",
        "a&b;c!",
        "",
        "/plain/path-1.0_x",
    ),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["data.root", "run_dir", "warm_start.checkpoint", "++data.prepared"])
def test_a_path_arrives_as_it_is_written(key: str, path: str) -> None:
    assert arrives(f"{key}={path}") == {key.lstrip("+"): path}


@pytest.mark.parametrize("path", ["/data/a=b", "/data/corpus(1)", "plain"])
def test_quotation_marks_of_the_users_own_stay(path: str) -> None:
    assert arrives(f'data.root="{path}"', f"run_dir='{path}'") == {"data.root": path, "run_dir": path}


def test_null_and_references_stay_what_they_are() -> None:
    read = arrives("warm_start.checkpoint=null", "run_dir=runs/${now:%H}/${seed}")
    assert read == {"warm_start.checkpoint": None, "run_dir": "runs/${now:%H}/${seed}"}


@pytest.mark.parametrize("key", ["warm_start.frozen", "central.frozen", "federation.frozen", "tracking"])
def test_a_list_of_texts_stays_a_list(key: str) -> None:
    assert arrives(f"{key}=[encoder,'ctc head']") == {key: ["encoder", "ctc head"]}


def test_warm_start_is_short_for_its_checkpoint() -> None:
    assert arrives("warm_start=a(1)") == {"warm_start.checkpoint": "a(1)"}
    assert arrives("warm_start=null") == {"warm_start.checkpoint": None}
    assert arrives("warm_start={epochs: 2}") == {"warm_start": {"epochs": 2}}


def test_a_comma_means_several_runs_in_a_sweep_alone() -> None:
    assert arrives("data.root=/a,b") == {"data.root": "/a,b"}
    flags, overrides = hydra_words(["data.root=/a,b", "--multirun", "seed=1,2"])
    assert (flags, overrides) == (["--multirun"], ["data.root=/a,b", "seed=1,2"])
    with pytest.raises(UserError, match="seed several values: add --multirun"):
        hydra_words(["seed=1,2"])


def test_flags_and_overrides_may_be_mixed() -> None:
    flags, overrides = hydra_words(["seed=1", "--cfg", "job", "~personalise", "+client=adam", "-m"])
    assert (flags, overrides) == (["--cfg", "job", "-m"], ["seed=1", "~personalise", "+client=adam"])


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("data.root", "data.root is neither a flag nor key=value"),
        ("=4", "There is no key ''"),
        ("ä.b=4", "There is no key 'ä.b'"),
        ("server.eta=é", "the value of server.eta cannot be read"),
        ("data.prepare.root=a=b", "the value of data.prepare.root cannot be read"),
        ("augment.speeds=[1", "the value of augment.speeds cannot be read"),
    ],
)
def test_what_cannot_be_read_is_named(word: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        hydra_words([word])
    assert str(error.value).startswith(f"{word}: {told}") or told in str(error.value)
    for foreign in ("mismatched", "Exception", "EOF"):
        assert foreign not in str(error.value)


def test_the_advice_on_quotation_marks_works() -> None:
    with pytest.raises(UserError) as error:
        hydra_words(["data.prepare.root=it's=b"])
    advice = shlex.split(str(error.value).split("quotation marks: ")[1])
    assert arrives(*advice) == {"data.prepare.root": "it's=b"}
