"""resume=true alone continues the latest run of the experiment."""

import os
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from asr_fed.commands import train
from asr_fed.config.schema import Config
from asr_fed.runs.run_dir import begin_run
from tests.tiny import Corpus, settings, write_experiment_file


class Started(list[Config]):
    """The configs that runs would have been started with."""

    def __call__(self, config: Config, command: str) -> dict[str, object]:
        self.append(config)
        return {}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Started:
    started = Started()
    monkeypatch.setattr("asr_fed.pipeline.train.train", started)
    monkeypatch.chdir(tmp_path)
    return started


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    GlobalHydra.instance().clear()
    monkeypatch.setattr("sys.argv", ["train_fed.py", *arguments])
    try:
        return train.main()
    except SystemExit as stopped:
        return int(stopped.code or 0)


def test_the_latest_run_is_continued_with_the_places_it_was_begun_with(
    started: Started,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = settings(corpus, Path("prepared/${data.name}"), Path("runs/x"))
    content["run_dir"] = "runs/${data.name}(1)/${now:%Y%m%d-%H%M%S}"
    write_experiment_file(tmp_path / "mine.yaml", content)

    assert command(monkeypatch, "mine", "resume=true") == 2
    assert "no run at runs/tiny(1)/*" in capsys.readouterr().err
    assert command(monkeypatch, "mine") == 0
    for name in ("a", "b"):
        started[0].run_dir = f"runs/tiny(1)/{name}"
        Path(started[0].run_dir).mkdir(parents=True)
        begin_run(started[0])
    os.utime("runs/tiny(1)/a/config.yaml", (2e9, 2e9))

    assert command(monkeypatch, "mine", "resume=true") == 0
    assert started[-1].run_dir == "runs/tiny(1)/a"
    assert command(monkeypatch, "mine", "resume=true", "run_dir=runs/tiny(1)/b") == 0
    assert started[-1].run_dir == "runs/tiny(1)/b"

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command(monkeypatch, "../mine", "resume=true", "run_dir=../runs/tiny(1)/b") == 0
    assert started[-1].data.prepared == started[0].data.prepared == str(tmp_path / "prepared" / "tiny")


def test_a_run_that_began_before_a_setting_was_refused_goes_on_with_it(
    started: Started,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = settings(corpus, tmp_path / "prepared", tmp_path / "run")
    write_experiment_file(tmp_path / "mine.yaml", content)
    high = ("+client=adam", "federation.held_out.epochs=1", "federation.held_out.lr=0.5")

    assert command(monkeypatch, "mine", "federation.lr=0.1", *high) == 2
    assert "set federation.held_out.lr, such as" in capsys.readouterr().err
    assert command(monkeypatch, "mine", "federation.lr=1", *high) == 0
    started[0].federation.lr = 0.1
    Path(started[0].run_dir).mkdir()
    begin_run(started[0])

    assert command(monkeypatch, "mine", "resume=true", "federation.lr=0.1", *high) == 0
    assert [config.federation.lr for config in started] == [0.1, 0.1]
