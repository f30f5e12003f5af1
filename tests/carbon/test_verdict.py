"""What would turn the verdict turns it."""

import dataclasses
import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from asr_fed.carbon.account import Account, describe, rows, summarise_account
from asr_fed.carbon.model import emissions, names
from asr_fed.carbon.scenario import Scenario, account_of, read_scenario
from asr_fed.commands.carbon import main
from asr_fed.reporting.carbon import carbon_section

RESNET18 = Path(__file__).parents[2] / "recipes" / "carbon" / "resnet18.yaml"


@pytest.fixture(scope="module")
def resnet18() -> Account:
    return read_scenario(RESNET18)


def ratio(account: Account) -> float:
    assert account.verdict is not None
    return account.verdict.ratio.value


def with_constant(account: Account, name: str, value: float) -> float:
    values = {each.name: each.value for each in account.constants.values()} | {name: value}
    return emissions(account.federated, values) / emissions(account.central, values)


def test_each_constant_that_turns_it_makes_both_equal(resnet18: Account) -> None:
    assert resnet18.verdict is not None and len(resnet18.verdict.turns) == 5
    for turn in resnet18.verdict.turns:
        assert with_constant(resnet18, turn.constant.name, turn.at) == pytest.approx(1)
    inside = [turn.within for turn in resnet18.verdict.turns]
    assert inside == sorted(inside, reverse=True)


def test_the_electricity_that_both_use_turns_nothing(resnet18: Account) -> None:
    assert resnet18.verdict is not None
    assert "talk2023_united_states" not in {turn.constant.name for turn in resnet18.verdict.turns}
    abroad = read_scenario(RESNET18, ["centralised.country=china"])
    assert abroad.verdict is not None
    assert "talk2023_united_states" in {turn.constant.name for turn in abroad.verdict.turns}


def test_at_the_break_even_speed_both_emit_the_same(resnet18: Account) -> None:
    assert resnet18.verdict is not None and resnet18.verdict.mbps is not None
    assert resnet18.mbps == pytest.approx(100)
    speed = resnet18.verdict.mbps.value
    assert speed == pytest.approx(109.2, abs=0.1)
    changes = [f"federated.up_mbps={speed}", f"federated.down_mbps={speed}"]
    assert ratio(read_scenario(RESNET18, changes)) == pytest.approx(1)
    assert ratio(read_scenario(RESNET18, ["federated.up_mbps=1000", "federated.down_mbps=1000"])) < 1


def test_networks_of_unequal_speed_break_even_at_a_mean_speed() -> None:
    """Total bits over total seconds: both directions become faster alike."""
    account = read_scenario(RESNET18, ["federated.up_mbps=20", "federated.down_mbps=80"])
    assert account.mbps == pytest.approx(2 / (1 / 20 + 1 / 80))
    assert account.verdict is not None and account.verdict.mbps is not None
    faster = account.verdict.mbps.value / account.mbps
    changes = [f"federated.up_mbps={20 * faster}", f"federated.down_mbps={80 * faster}"]
    assert ratio(read_scenario(RESNET18, changes)) == pytest.approx(1)


def test_no_speed_is_enough_where_computing_alone_emits_more() -> None:
    account = read_scenario(RESNET18, ["federated.compute_seconds=60"])
    assert account.verdict is not None and account.verdict.mbps is None


def test_no_speed_matters_where_bytes_are_counted() -> None:
    account = read_scenario(RESNET18, ["federated.communication=fixed"])
    assert account.verdict is not None and account.verdict.mbps is None
    assert "Mbps" not in account.verdict.sentence


def test_at_the_break_even_intensity_both_emit_the_same(resnet18: Account) -> None:
    assert resnet18.verdict is not None and resnet18.verdict.intensity is not None
    server = ["federated.server_seconds=2", "federated.server_country=china"]
    account = read_scenario(RESNET18, ["centralised.country=united_kingdom", *server])
    assert account.verdict is not None and account.verdict.intensity is not None
    assert with_constant(account, "talk2023_united_states", account.verdict.intensity.value) == pytest.approx(1)


def test_the_band_of_the_ratio_holds_all_corners_and_touches_two(resnet18: Account) -> None:
    used = sorted(names((*resnet18.federated, *resnet18.central)))
    found = []
    for corner in itertools.product(*((resnet18.constants[name].low, resnet18.constants[name].high) for name in used)):
        values = dict(zip(used, corner, strict=True))
        found.append(emissions(resnet18.federated, values) / emissions(resnet18.central, values))
    assert resnet18.verdict is not None
    assert resnet18.verdict.ratio.low == pytest.approx(min(found))
    assert resnet18.verdict.ratio.high == pytest.approx(max(found))


@pytest.mark.parametrize(
    "changes",
    [
        (),  # with some bounds no speed is enough
        ("federated.compute_seconds=2",),
        ("federated.server_seconds=2", "centralised.country=china"),
    ],
)
def test_the_bands_of_both_break_evens_hold_all_corners_and_touch_two(changes: tuple[str, ...]) -> None:
    account = read_scenario(RESNET18, list(changes))
    exact = [
        [(name, dataclasses.replace(constant, low=at, value=at, high=at)) for at in {constant.low, constant.high}]
        for name, constant in account.constants.items()
        if name in names((*account.federated, *account.central))
    ]
    speeds, intensities = [], []
    for corner in itertools.product(*exact):
        verdict = dataclasses.replace(account, constants=account.constants | dict(corner)).verdict
        assert verdict is not None
        speeds.append(verdict.mbps.value if verdict.mbps else math.inf)
        intensities.append(verdict.intensity.value if verdict.intensity else 0.0)
    assert account.verdict is not None
    for found, all_of_them in ((account.verdict.mbps, speeds), (account.verdict.intensity, intensities)):
        assert found is not None
        assert (found.low, found.high) == pytest.approx((min(all_of_them), max(all_of_them)))
    told = describe(account)["verdict"]["break_even_mbps"]["high"]
    assert told == (max(speeds) if math.isfinite(max(speeds)) else None)
    assert ("no speed at all" in account.verdict.sentence) == (told is None)


def test_the_sentence_says_which_way_it_turns(resnet18: Account) -> None:
    assert resnet18.verdict is not None
    assert "emits more" in resnet18.verdict.sentence and "networks faster than 109 Mbps" in resnet18.verdict.sentence
    faster = read_scenario(RESNET18, ["federated.up_mbps=1000", "federated.down_mbps=1000"])
    assert faster.verdict is not None
    assert "emits less" in faster.verdict.sentence and "networks slower than 109 Mbps" in faster.verdict.sentence
    far = read_scenario(RESNET18, ["federated.rounds=1600"])
    assert far.verdict is not None and "no constant turns that within its bounds" in far.verdict.sentence


@pytest.mark.parametrize("server", [[], ["federated.server_seconds=2", "federated.server_country=china"]])
def test_there_is_no_verdict_where_the_centralised_run_emits_nothing(
    server: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = ["constants.talk2023_united_states=0", *server]
    account = read_scenario(RESNET18, clean)
    assert account.verdict is None and describe(account)["verdict"] is None
    assert account.centralised is not None and account.centralised.g.value == 0
    assert main([str(RESNET18), *clean, "--output", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "Modelled: the federation emits" in shown and "Federated over centralised" not in shown
    assert carbon_section(account, SimpleNamespace(carbon=summarise_account(account, None)))["sentences"]


def test_rows_add_up_to_the_total(resnet18: Account) -> None:
    account = read_scenario(RESNET18, ["federated.idle_seconds=3", "federated.server_seconds=1"])
    assert set(account.by_phase) == {"compute", "upload", "download", "idle", "server"}
    ours = [row for row in rows(account) if row["system"] == "federated"]
    for name in ("wh", "g"):
        total = getattr(account.total, name)
        assert sum(row[name] for row in ours) == pytest.approx(total.value)
        assert sum(row[f"{name}_low"] for row in ours) == pytest.approx(total.low)
        assert sum(row[f"{name}_high"] for row in ours) == pytest.approx(total.high)
    assert {row["round"] for row in ours} == set(range(1, 17))
    told = describe(account)
    assert {each["name"] for each in told["constants"]} >= {"router", "server_pue", "gpu_v100_compute"}


def test_a_mix_of_countries_and_devices_is_the_sum_of_its_parts() -> None:
    mixed = read_scenario(RESNET18)
    parts: list[float] = []
    scenario = Scenario(title="mix", intensities="talk2023")
    ours = scenario.federated
    ours.rounds, ours.clients, ours.compute_seconds = 2, 10, 30.0
    for country, device in itertools.product(("china", "uk"), ("phone", "laptop")):
        ours.countries, ours.devices = {country: 1.0}, {device: 1.0}
        share = {"china": 0.75, "uk": 0.25}[country] * {"phone": 0.9, "laptop": 0.1}[device]
        parts.append(share * account_of(scenario).total.g.value)
    ours.countries, ours.devices = {"china": 0.75, "uk": 0.25}, {"phone": 0.9, "laptop": 0.1}
    mixed = account_of(scenario)
    assert mixed.total.g.value == pytest.approx(sum(parts))
    assert set(mixed.by_country) == {"china", "uk"}


def test_emissions_per_point_of_wer() -> None:
    account = read_scenario(RESNET18, ["wer_gained=8"])
    assert account.g_per_point is not None and account.g_per_point.value == account.total.g.value / 8
    assert dataclasses.replace(account, wer_gained=-1.0).g_per_point is None
