"""The demo on phones in France, made smaller: files, report, last lines, and the comparison with another run."""

import contextlib
import csv
import io
import json
import re
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from asr_fed.commands import fleet_table
from asr_fed.commands.compare import compare
from asr_fed.config.schema import Config
from asr_fed.data.partition_files import read_partition
from asr_fed.pipeline.train import train
from asr_fed.reporting.carbon import describe_carbon
from asr_fed.reporting.simulation import describe_fleet, describe_size
from asr_fed.runs.experiment import read_config
from asr_fed.runs.records import read_history
from asr_fed.simulation.record import read_client_times, read_round_times
from tests.pipeline.recording import record
from tests.recipes.test_check import compose_and_check
from tests.tiny import TINY_MODEL, Corpus

FLEET = ("simulation=phones", "carbon=france")


@pytest.fixture(scope="module")
def demo(corpus: Corpus, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`python train_fed.py hparams/demo_fr.yaml WORDS`, of nine speakers and a tiny model; what it prints is in
    shown.txt of the run directory.
    """
    smaller = (
        *("data=table", "data.name=tiny", "data.language=en", f"data.root={corpus.table}", f"data.prepared={prepared}"),
        *("data.parts.warm_up_speakers=2", "federation.clients.count=3", "augment.speeds=[1.0]"),
        *(f"model.{name}={value}".replace(" ", "") for name, value in TINY_MODEL.items()),
        *("warm_start.epochs=1", "warm_start.evaluate_every=1", "federation.rounds=2", "central.epochs=3"),
        *("evaluation.test_decoder=ctc_greedy", "evaluation.report_clips=0", "engine.workers=1", "device=cpu"),
    )

    def run(*words: str, by: Callable[[Config], object] = record) -> Path:
        run_dir, shown = tmp_path_factory.mktemp("demo"), io.StringIO()
        composed = compose_and_check("hparams/demo_fr.yaml", [*words, *smaller, f"run_dir={run_dir}"])
        with contextlib.redirect_stdout(shown):
            by(OmegaConf.to_object(composed))  # type: ignore[arg-type]
        (run_dir / "shown.txt").write_text(shown.getvalue())
        return run_dir

    return run


@pytest.fixture(scope="module")
def on_phones(demo: Callable[..., Path]) -> Path:
    return demo(*FLEET, "carbon.measure=true")


def test_a_pretraining_tells_its_hours_and_emissions_too(demo: Callable[..., Path], tmp_path: Path) -> None:
    task = ("task.kind=best_rq", "task.codebook_size=12", "weighting=num_examples", "augment.pauses=0.0")
    run_dir = demo(*FLEET, *task, "carbon.measure=true", by=train)
    summary = json.loads((run_dir / "summary.json").read_text())
    hours = sum(each.fleet_seconds or 0 for each in read_history(run_dir)) / 3600
    assert summary["simulation"]["hours"] == pytest.approx(hours) and hours > 0
    assert summary["carbon"]["measured_on_this_host"]["processes"] == 1
    assert summary["carbon"]["g"]["value"] > 0 and summary["carbon"]["g_per_point"] is None
    report, shown = (run_dir / "report.html").read_text(), (run_dir / "shown.txt").read_text()
    assert "Held-out loss over the time of the fleet" in report and "WER over the time" not in report
    assert "<h2>Carbon</h2>" in report and "<th>WER %</th>" not in report
    assert "Fleet of phones" in shown and "dev WER" not in shown and "Modelled: the federation emits" in shown
    compare([run_dir, run_dir], tmp_path)
    (row, _) = csv.DictReader((tmp_path / "comparison.csv").open())
    assert float(row["fleet_hours"]) == pytest.approx(hours) and row["least_heard_wer"] == ""
    assert (tmp_path / "comparison_heard.csv").is_file()


def test_the_account_of_a_run(on_phones: Path, tmp_path: Path) -> None:
    run_dir, shown = on_phones, (on_phones / "shown.txt").read_text()
    summary = json.loads((run_dir / "summary.json").read_text())
    told = json.loads((run_dir / "carbon.json").read_text())
    account = summary["carbon"]
    rows = read_client_times(run_dir)
    compute = sum(row.compute_s for row in rows) * 3 / 3600
    assert told["by_phase"]["compute"]["wh"]["value"] == pytest.approx(compute)
    assert account["wh"] == told["federated"]["wh"] and account["g"]["low"] < account["g"]["value"]
    with (run_dir / "carbon.csv").open() as file:
        written = list(csv.DictReader(file))
    g = sum(float(row["g"]) for row in written if row["system"] == "federated")
    assert g == pytest.approx(account["g"]["value"])

    clients = read_partition(run_dir / "partition").clients
    pooled = sum(utterance.duration for client in clients for utterance in client.train)
    trained = sum(each.audio_seconds for each in read_history(run_dir))
    phones = sum(row.compute_s for row in rows if row.arrived)
    central = phones * 3 * pooled / trained * 0.03 * 250 * 1.58 / 3600
    assert told["centralised"]["wh"]["value"] == pytest.approx(central)

    fleet, carbon = describe_fleet(summary["simulation"]), describe_carbon(account)
    assert fleet[0].startswith("Fleet of phones on mobile: ") and "for 2 rounds" in fleet[0]
    assert carbon[0].startswith("Modelled: the federation emits ") and account["sentence"] in carbon
    assert shown.rstrip().endswith("\n".join(["", *fleet, *carbon, f"Results are in {run_dir}."]))
    page = (run_dir / "report.html").read_text()
    for told_there in ("<h2>Time of the fleet</h2>", "Who is heard", "<h2>Carbon</h2>", *fleet, account["sentence"]):
        assert told_there in page.replace("\n", " ")

    remark = describe_size(summary["parameters"] / 952894)
    assert remark is not None and remark in fleet and shown.count(remark) == 2, "at its start and its end"

    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    summary["carbon"] = None
    (other / "summary.json").write_text(json.dumps(summary))
    compare([run_dir, other], tmp_path / "comparison", 100.0)
    with (tmp_path / "comparison" / "comparison.csv").open() as file:
        first, second = csv.DictReader(file)
    assert float(first["g_co2e"]) == account["g"]["value"] and second["g_co2e"] == ""
    assert float(first["of_central"]) == account["ratio"]["value"]
    assert float(first["fleet_hours_to_target"]) <= summary["simulation"]["hours"]
    assert float(first["fleet_mb_up"]) == pytest.approx(sum(row.bytes_up for row in rows) / 1e6)
    with (tmp_path / "comparison" / "comparison_curves.csv").open() as file:
        curve = [row for row in csv.DictReader(file) if row["run"] == "run 1" and row["curve"] == "federation"]
    ends = [each.end_s / 3600 for each in read_round_times(run_dir)]
    assert [float(row["fleet_hours"]) for row in curve] == pytest.approx(ends)
    assert [float(row["dev_wer"]) for row in curve] == [each.wer for each in read_history(run_dir)]
    with (tmp_path / "comparison" / "comparison_heard.csv").open() as file:
        heard = [row for row in csv.DictReader(file) if row["run"] == "run 1"]
    assert sum(int(row["clients"]) for row in heard) == 3 and first["least_heard"] in {row["group"] for row in heard}
    assert "g CO2e" in (tmp_path / "comparison" / "comparison.md").read_text().replace("\u00a0", " ")


def test_what_this_host_drew_is_measured_and_told_apart(on_phones: Path) -> None:
    summary, shown = json.loads((on_phones / "summary.json").read_text()), (on_phones / "shown.txt").read_text()
    account = summary["carbon"]
    measured = account["measured_on_this_host"]
    assert measured["processes"] == 1 and measured["country"] == "FRA" and measured["wh"] > 0
    trained = sum(each.round_seconds for each in read_history(on_phones))
    assert trained < measured["seconds"] <= summary["seconds"], "the trainings, not what surrounds them"
    (told,) = (sentence for sentence in describe_carbon(account) if "Measured on this host, by codecarbon" in sentence)
    assert told in shown and told in (on_phones / "report.html").read_text()
    assert "no part of the numbers above" in told
    modelled = json.loads((on_phones / "carbon.json").read_text())["federated"]
    assert (account["wh"], account["g"]) == (modelled["wh"], modelled["g"])


def test_a_run_without_a_clock_is_accounted_as_one_that_was_trained_with_it(
    demo: Callable[..., Path], on_phones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without, again = demo(), tmp_path / "again"
    config = OmegaConf.load(without / "config.yaml")
    config.device = "cuda"  # it need not be there to tell the time again
    config.evaluation.report_clips = 2
    OmegaConf.save(config, without / "config.yaml")
    assert fleet_table.main(["account", str(without), str(again), *FLEET]) == 0
    for name in ("simulation.csv", "simulation_rounds.csv", "simulation_heard.csv", "carbon.csv"):
        assert (again / name).read_bytes() == (on_phones / name).read_bytes(), name
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (again, on_phones))
    for name in ("weights_sha256", "simulation", "systems", "best_round"):
        assert ours[name] == theirs[name], name
    assert ours["carbon"]["g"] == theirs["carbon"]["g"]
    assert [each.fleet_seconds for each in read_history(again)] == [
        each.fleet_seconds for each in read_history(on_phones)
    ]
    assert (again / "report.html").read_text().count("<audio") == 2
    fleet = describe_fleet(ours["simulation"])
    assert capsys.readouterr().out.startswith("\n".join(fleet)) and fleet[0] in (again / "report.html").read_text()
    assert read_config(again).run_dir == str(again) and not read_client_times(without)

    slow = tmp_path / "slow"
    assert fleet_table.main(["account", str(again), str(slow), "simulation.network=0.1"]) == 0
    assert read_round_times(slow)[-1].end_s > 2 * read_round_times(again)[-1].end_s
    assert read_config(slow).carbon is not None and "on 0.1:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["simulation.late=drop", "simulation.tau=MEDIAN"], "would have trained otherwise: client_"),
        (["simulation.buffer=1"], "says from what is trained"),
        (["federation.rounds=3"], "only simulation and carbon can be changed here"),
        (["simulation=fones"], "There is no simulation=fones.*'phones'"),
        (["simulation.netwrk=20"], "no key 'simulation.netwrk'.*'simulation.network'"),
        (["simulation.tau=-1"], "simulation.tau"),
        (["simulation=none", "carbon=none"], "by what fleet"),
    ],
)
def test_what_another_clock_would_have_trained_otherwise_is_refused(
    words: list[str], reason: str, on_phones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    median = str(statistics.median(each.busy_s for each in read_client_times(on_phones)))
    words = [word.replace("MEDIAN", median) for word in words]
    assert fleet_table.main(["account", str(on_phones), str(tmp_path / "new"), *words]) == 2
    assert re.search(reason, capsys.readouterr().err.replace("\n", " "))
    assert not list(tmp_path.iterdir())


def test_a_plan_says_what_training_will_find(
    on_phones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def planned(*words: str) -> str:
        assert fleet_table.main(["plan", str(on_phones), *words]) == 0
        return capsys.readouterr().out

    before = sorted(on_phones.iterdir())
    trained = json.loads((on_phones / "summary.json").read_text())["simulation"]
    assert planned() == "\n".join(describe_fleet(trained | {"best_hours": None})) + "\n"
    assert "for 40 rounds" in planned("federation.rounds=40", "federation.cohort=2", "simulation.network=20")
    assert "for 9 server steps" in planned("federation.rounds=9", "federation.cohort=2", "simulation.buffer=1")
    assert sorted(on_phones.iterdir()) == before
    for words, reason in (
        (["simulation.sampling=oort"], "by their losses"),
        (["federation.clients.count=2"], "only simulation and federation can be changed here"),
        (["seed=3"], "only simulation and federation can be changed here"),
        (["simulation=none"], "by what fleet"),
    ):
        assert fleet_table.main(["plan", str(on_phones), *words]) == 2
        assert reason in capsys.readouterr().err.replace("\n", " ")
