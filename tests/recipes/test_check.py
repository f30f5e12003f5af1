"""Recipes: their commands are valid, and their tables are compared with what runs give now."""

import argparse
import dataclasses
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from asr_fed.commands.experiment_file import register_config_files
from asr_fed.config.check import check_config, check_new_run
from asr_fed.config.schema import Config
from asr_fed.data.manifest import Utterance
from asr_fed.evaluation.evaluate import Evaluation
from asr_fed.evaluation.wer import score
from asr_fed.reporting.evaluation_files import numbers, write_evaluation
from asr_fed.runs.records import RoundRecord, write_history
from asr_fed.runs.summary import RunSummary, SystemResult, read_summary, write_summary
from asr_fed.system.errors import UserError
from recipes import check
from recipes.checking.execute import execute
from recipes.checking.measure import FIELDS, measure, recount
from recipes.checking.recipe import Recipe, command, only, read_recipe, starts_from
from recipes.checking.table import MARKS, read_measured, write_measured

README = f"# A recipe\n\n{MARKS[0]}\nold\n{MARKS[1]}\n\nAfter it.\n"
# Rows that no page but their recipe's own speaks of.
NOT_QUOTED = (
    "warm start",
    "10 silos, FedAdam on the server",
    "linear probe, random encoder",
    "linear probe, 10 silos",
    "linear probe, pooled",
)
REQUIRED = [name for name in RoundRecord.__dataclass_fields__ if name not in vars(RoundRecord) and name != "workers"]
RECIPE = """
base: train_fed.py nowhere.yaml
seeds: [7, 8]
words: {START: "a=$RUNS/start/warm.pt"}
runs:
  start: ""
  run-$SEED: $START seed=$SEED b=$CORPUS
rows:
  - {name: start, run: start, system: warm_start}
  - {name: both, run: run-$SEED, system: federated}
  - {name: again, run: run-$SEED, system: warm_start, against: both}
  - {name: first, run: run-7, system: federated, against: start}
tolerance: 10
"""
WORDS = "one two three four five six seven eight nine ten"


@pytest.mark.parametrize("path", sorted(check.RECIPES.glob("*/recipe.yaml")), ids=lambda path: path.parent.name)
def test_every_run_of_our_recipes_is_one_that_would_start(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read_recipe(path.parent)
    monkeypatch.setenv("AN4", "corpus")
    monkeypatch.setenv("TABLE", "corpus/table.csv")
    monkeypatch.setenv("WARM", "warm_start.pt")
    monkeypatch.setenv("START", "warm_start.pt")
    for line in recipe.runs.values():
        program, experiment, *overrides = command(line, Path("runs"))
        assert (check.RECIPES.parent / program).is_file()
        compose_and_check(experiment, [*overrides, "run_dir=somewhere"])
        assert starts_from(line) <= recipe.runs.keys()
    for name, line in recipe.accounts.items():
        (run,) = starts_from(line)
        *_, trained, new = command(line, Path("runs"))[:5]
        changes = command(line, Path("runs"))[5:]
        assert (Path(trained), Path(new)) == (Path("runs", run), Path("runs", name))
        _, experiment, *overrides = command(recipe.runs[run], Path("runs"))
        compose_and_check(experiment, [*overrides, *changes, "run_dir=somewhere"])
    rows = {row.name for row in recipe.rows}
    assert {run for row in recipe.rows for run in row.runs} <= recipe.runs.keys() | recipe.accounts.keys()
    assert {row.against for row in recipe.rows} <= {*rows, None} and len(rows) == len(recipe.rows)


def compose_and_check(experiment: str, overrides: list[str]) -> DictConfig:
    """Of a file of ours in hparams/, or of another one with its path from the project's folder."""
    ConfigStore.instance().store("schema", Config)
    register_config_files()
    folder = (check.RECIPES.parent / experiment).parent
    with initialize_config_dir(str(folder), version_base="1.3"):
        config = compose(Path(experiment).stem, overrides)
    check_config(config)
    check_new_run(config)
    return config


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "README.md").write_text(README)
    return read_recipe(folder)


def finish(run_dir: Path, wrong: int) -> None:
    """A run whose federated recogniser misses the first `wrong` of anne's ten words, and one less of bob's."""
    speech = [Utterance(f"{who}-1", 2.0, "", who, WORDS) for who in ("anne", "bob")]
    systems = {}
    for name, missed in (("warm_start", 5), ("federated", wrong)):
        heard = [" ".join(WORDS.split()[count:]) for count in (missed, missed - 1)]
        evaluation = Evaluation(score(speech, heard))
        write_evaluation(run_dir / "evaluation" / name, evaluation, {})
        systems[name] = SystemResult(**numbers(evaluation))
    own = systems["federated"]
    write_summary(run_dir, RunSummary(test_wer=own.wer, test_cer=own.cer, systems=systems, seconds=90))


def test_seeds_words_runs_and_the_environment_make_the_command_lines(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(recipe.runs) == ["start", "run-7", "run-8"]
    assert recipe.rows[1].runs == ("run-7", "run-8")
    with pytest.raises(UserError, match="CORPUS"):
        command(recipe.runs["run-7"], Path("/runs"))
    monkeypatch.setenv("CORPUS", "here")
    words = command(recipe.runs["run-7"], Path("/runs"))
    assert words == ["train_fed.py", "nowhere.yaml", "a=/runs/start/warm.pt", "seed=7", "b=here"]
    assert starts_from(recipe.runs["run-7"]) == {"start"}


def test_a_failed_run_is_named_with_its_command_and_what_it_said(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORPUS", "here")
    with pytest.raises(UserError) as stopped:
        execute(recipe, tmp_path, jobs=2)
    told = str(stopped.value)
    assert "recipe: the run start ended with status 2: asr-fed: There is no experiment file nowhere.yaml" in told
    assert f"python train_fed.py nowhere.yaml run_dir={tmp_path / 'start'}" in told
    assert sorted(path.name for path in tmp_path.glob("*.log")) == ["start.log"]  # the others had to wait for it


def test_runs_that_have_ended_are_not_repeated_and_the_others_run_side_by_side_when_what_they_need_is_there(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORPUS", "here")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    runs = tmp_path / "runs"
    (runs / "run-8").mkdir(parents=True)
    (runs / "run-8" / "config.yaml").touch()  # it was stopped
    lines = {name: line.replace("train_fed.py", str(program)) for name, line in recipe.runs.items()}
    execute(dataclasses.replace(recipe, runs=lines), runs, jobs=2)
    first, *others = (tmp_path / "order.txt").read_text().splitlines()
    assert first == "start ends" and sorted(others[:2]) == ["run-7 begins", "run-8 begins resume=true"]
    assert (runs / "run-7" / "summary.json").is_file()
    (tmp_path / "order.txt").unlink()
    execute(dataclasses.replace(recipe, runs=lines), runs, jobs=2)
    assert not (tmp_path / "order.txt").exists()


PROGRAM = """
import sys, time
from pathlib import Path
run_dir = Path(next(word for word in sys.argv if word.startswith("run_dir="))[8:])
order = run_dir.parent.parent / "order.txt"
def note(text):
    with order.open("a") as file:
        file.write(text + chr(10))
if run_dir.name != "start":
    note(" ".join([run_dir.name, "begins", *sys.argv[-1:]]).removesuffix(f" run_dir={run_dir}"))
    end = time.monotonic() + 300
    while order.read_text().count("begins") < 2 and time.monotonic() < end:  # until the other has begun too
        time.sleep(0.02)
    assert order.read_text().count("begins") == 2
run_dir.mkdir(parents=True, exist_ok=True)
note(f"{run_dir.name} ends")
(run_dir / "summary.json").write_text("{}")
"""


def test_the_table_is_written_from_the_runs_and_compared_with_later_ones(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(tmp_path / "start", 5)
    finish(tmp_path / "run-7", 2)
    finish(tmp_path / "run-8", 4)
    start, both, again, first = rows = measure(recipe, tmp_path)
    assert (start.wer, start.runs, start.minutes) == (45, 1, 1.5)
    assert (both.wer, both.least, both.greatest, both.runs) == (25, 15, 35, 2)
    assert both.low is not None and 0 < both.low < 25 < (both.high or 0)
    # The errors of the two speakers of both runs: 6 and 4 of 20 words each, and 10 and 8.
    assert [(each.errors, each.units) for each in both.speakers + again.speakers] == [
        (6, 20),
        (4, 20),
        (10, 20),
        (8, 20),
    ]
    # Both speakers have 4 more in 20; a coin for each is alike in half of the cases. So have both utterances.
    assert (again.difference, again.paired_t_p, again.matched_pairs_p) == (pytest.approx(20), 0.5, 0.5)
    assert (first.difference, first.paired_t_p, first.matched_pairs_p) == (pytest.approx(-30), 0.5, 0.5)
    assert (again.difference_least, again.difference_greatest) == (pytest.approx(10), pytest.approx(30))
    write_measured(recipe, rows, "On a machine.")
    readme = (recipe.folder / "README.md").read_text()
    assert f"| both | 25.0 | {both.low:.1f} to {both.high:.1f} | 15.0 to 35.0 |" in readme
    assert "| +20.0 (runs +10.0 to +30.0) to both | 0.5 | 0.5 | 2 |" in readme
    assert "| -30.0 to start | 0.5 | 0.5 | 1 |" in readme
    assert "old" not in readme and readme.endswith("After it.\n") and f"{MARKS[0]}\nOn a machine.\n" in readme
    assert check.compare(recipe, rows)

    for wrong, within in ((6, True), (7, False)):  # a mean of 35 and of 40, where 25 may differ by 10
        finish(tmp_path / "run-8", wrong)
        assert check.compare(recipe, measure(recipe, tmp_path)) is within
    assert "DIFFERS" in capsys.readouterr().out


def test_the_cheap_decoder_and_the_effective_clients_have_columns_where_the_runs_have_them(
    recipe: Recipe, tmp_path: Path
) -> None:
    for wrong, run in enumerate(recipe.runs, 3):
        finish(tmp_path / run, wrong)
    write_measured(recipe, measure(recipe, tmp_path), "Then.")
    assert "effective" not in (recipe.folder / "README.md").read_text()
    for number, run in enumerate(("run-7", "run-8")):
        summary = read_summary(tmp_path / run)
        federated = dataclasses.replace(summary.systems["federated"], ctc_greedy_wer=40.0 + number)
        write_summary(tmp_path / run, dataclasses.replace(summary, systems=summary.systems | {"federated": federated}))
        rounds = [dict.fromkeys(REQUIRED, 1) | {"effective_clients": 8.0 + number + each} for each in (0, 1)]
        write_history(tmp_path / run, map(RoundRecord.from_dict, rounds))
    rows = measure(recipe, tmp_path)
    assert [row.ctc_greedy_wer for row in rows] == [None, 40.5, None, 40.0]
    assert [row.effective_clients for row in rows] == [None, 9.0, None, 8.5]
    write_measured(recipe, rows, "Then.")
    assert read_measured(recipe)[1].effective_clients == 9.0
    assert "| 40.5 | 9.0 |" in (recipe.folder / "README.md").read_text()


def test_some_rows_need_what_they_are_compared_with_and_what_their_runs_start_from(recipe: Recipe) -> None:
    chosen = only(recipe, "^first")
    assert [row.name for row in chosen.rows] == ["start", "first"] and list(chosen.runs) == ["start", "run-7"]
    chosen = only(recipe, "^both")
    assert [row.name for row in chosen.rows] == ["both"] and list(chosen.runs) == ["start", "run-7", "run-8"]
    with pytest.raises(UserError, match="no row like 'nobody'.*\n  start\n  both"):
        only(recipe, "nobody")
    with pytest.raises(UserError, match="not a regular expression"):
        only(recipe, "(")


def test_writing_some_rows_leaves_the_others_as_they_were(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "recipe"
    for run in recipe.runs:
        finish(runs / run, 3)
    write_measured(recipe, measure(recipe, runs), "Then.")
    before = read_measured(recipe)
    for run in recipe.runs:
        finish(runs / run, 1)
    monkeypatch.setattr(check, "RECIPES", tmp_path)
    assert check.main(["recipe", f"--folder={tmp_path}", "--only=first", "--write"]) == 0
    after = read_measured(recipe)
    assert [row.name for row in after] == ["start", "both", "again", "first"]
    assert after[1:3] == before[1:3] and before[3].wer == 25 and after[3].wer == 5
    assert "2 runs of 3 minutes together, for 2 of 4 rows; the others earlier." in (
        recipe.folder / "README.md"
    ).read_text(encoding="utf-8")
    assert check.main(["recipe", f"--folder={tmp_path}", "--only=start", "--write"]) == 0  # it came out as before
    stale = argparse.Namespace(recipes=["recipe"], folder=tmp_path, jobs=1, only="^both", recount=False, write=True)
    with pytest.raises(UserError, match="Name them in --only, too: again"):
        check.check(stale)


def test_a_row_that_was_never_measured_does_not_pass(recipe: Recipe, tmp_path: Path) -> None:
    for run in recipe.runs:
        finish(tmp_path / run, 3)
    rows = measure(recipe, tmp_path)
    with pytest.raises(UserError, match=r"measured\.csv is not there"):
        check.compare(recipe, rows)
    write_measured(recipe, rows[:1], "Then.")
    assert not check.compare(recipe, rows)


def test_what_follows_from_stored_counts_is_computed_again_without_the_runs(recipe: Recipe, tmp_path: Path) -> None:
    for wrong, run in enumerate(recipe.runs, 3):
        finish(tmp_path / run, wrong)
    write_measured(recipe, measure(recipe, tmp_path), "Then.")
    right = [(recipe.folder / name).read_text() for name in ("README.md", "measured.csv")]
    rows = read_measured(recipe)
    write_measured(recipe, [dataclasses.replace(row, low=0.0, paired_t_p=1.0) for row in rows])
    assert (recipe.folder / "measured.csv").read_text() != right[1]
    write_measured(recipe, recount(read_measured(recipe)))
    assert [(recipe.folder / name).read_text() for name in ("README.md", "measured.csv")] == right
    with pytest.raises(UserError, match="no counts for start"):
        recount([dataclasses.replace(row, speakers=()) for row in rows])


@pytest.mark.parametrize("path", sorted(check.RECIPES.glob("*/measured.csv")), ids=lambda path: path.parent.name)
def test_our_tables_follow_from_their_counts_or_say_that_they_have_none(path: Path) -> None:
    rows = read_measured(read_recipe(path.parent))
    if not any(row.speakers for row in rows):
        assert "drawn by the bootstrap" in (path.parent / "README.md").read_text(encoding="utf-8")
        return
    for row, again in zip(rows, recount(rows), strict=True):
        for field in FIELDS:
            was, now = getattr(row, field.name), getattr(again, field.name)
            assert was == (pytest.approx(now, rel=1e-3, abs=1e-3) if isinstance(now, float) else now), field.name


@pytest.mark.parametrize(
    ("page", "name"),
    [
        *(("README.md", name) for name in ("demo_fr", "an4", "cv_shape")),
        *(("docs/closing_the_gap.md", name) for name in ("an4", "weightings", "cv_shape_weightings")),
        *(("docs/self_supervised.md", name) for name in ("self_supervised", "self_supervised_cv_shape")),
        *(("docs/tune_little.md", name) for name in ("tune_little",)),
    ],
)
def test_a_page_that_speaks_of_a_recipe_has_its_numbers(page: str, name: str) -> None:
    """Each WER of the table is in the sections of the page that link to the recipe."""
    sections = (check.RECIPES.parent / page).read_text(encoding="utf-8").split("\n## ")
    linking = " ".join(section for section in sections if f"recipes/{name}/README.md" in section)
    said = [float(number) for number in re.findall(r"(?<![\d.])\d+\.\d(?!\d)", linking)]
    quoted = [row for row in read_measured(read_recipe(check.RECIPES / name)) if row.name not in NOT_QUOTED]
    assert not [f"{row.name}: {row.wer}" for row in quoted if min(abs(number - row.wer) for number in said) > 0.051]


def test_a_run_without_its_evaluation_says_how_to_make_it(recipe: Recipe, tmp_path: Path) -> None:
    for run in recipe.runs:
        finish(tmp_path / run, 3)
    for file in (tmp_path / "run-8" / "evaluation" / "federated").iterdir():
        file.unlink()
    (tmp_path / "run-8" / "evaluation" / "federated").rmdir()
    with pytest.raises(UserError, match=r"python -m asr_fed.evaluation .*run-8"):
        measure(recipe, tmp_path)
