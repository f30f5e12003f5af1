"""A whole run with a carbon account: its files, its report, its last lines, and beside another run."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from asr_fed.commands.compare import compare
from asr_fed.config.schema import Config
from asr_fed.data.partition_files import read_partition
from asr_fed.runs.records import read_history
from asr_fed.simulation.record import read_client_times
from tests.pipeline.recording import record
from tests.tiny import Corpus, settings, typed_config


@pytest.fixture(scope="module")
def config(corpus: Corpus, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return typed_config(
        settings(corpus, prepared, tmp_path_factory.mktemp("carbon")),
        *("warm_start.epochs=1", "federation.rounds=2", "evaluation.report_clips=0", "central.epochs=3"),
        *("simulation.devices=phones", "simulation.network=20", "simulation.reference.parameters=1000"),
        *("simulation.reference.step_seconds=0.05", "simulation.reference.train_seconds=0.01"),
        *("simulation.reference.decode_seconds=0.01", "carbon.countries={france: 0.5, italy: 0.5}"),
    )


def test_the_account_of_a_run(config: Config, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    record(config)
    shown = capsys.readouterr().out
    run_dir = Path(config.run_dir)
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

    partition = read_partition(run_dir / "partition")
    clients = sum(client.seconds for client in partition.clients)
    pooled = clients + sum(u.duration for part in (partition.warm_up, partition.held_out) for u in part)
    trained = sum(each.audio_seconds for each in read_history(run_dir))
    phones = sum(row.compute_s for row in rows if row.arrived)
    central = phones * 3 * pooled / trained * 0.03 * 250 * 1.58 / 3600
    assert told["centralised"]["wh"]["value"] == pytest.approx(central)  # central.start=scratch trains on all of it

    last = shown.rstrip().splitlines()
    assert "Modelled: the federation emits" in shown and account["sentence"] in shown
    assert last[-1].startswith("Results are in")
    page = (run_dir / "report.html").read_text()
    assert "<h2>Carbon</h2>" in page and account["sentence"] in page.replace("\n", " ") and "in italy" in page

    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    summary["carbon"] = None
    (other / "summary.json").write_text(json.dumps(summary))
    compare([run_dir, other], tmp_path / "comparison")
    with (tmp_path / "comparison" / "comparison.csv").open() as file:
        first, second = csv.DictReader(file)
    assert float(first["g_co2e"]) == account["g"]["value"] and second["g_co2e"] == ""
    assert float(first["of_central"]) == account["ratio"]["value"]
    assert "g CO2e" in (tmp_path / "comparison" / "comparison.md").read_text().replace("\u00a0", " ")
