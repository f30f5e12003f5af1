"""A round as data: fair assignments out, one exact sum in, failures by name."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from asr_fed.aggregation.buffer import aged
from asr_fed.aggregation.update import DELTA, add_client, empty, fixed, mean, merge
from asr_fed.aggregation.weighting import NumExamples, weight_bounds
from asr_fed.config.federation import RobustConfig, Rule
from asr_fed.config.schema import FederationConfig
from asr_fed.federation.client_app import client_size
from asr_fed.federation.placement import CostModel
from asr_fed.federation.roster import Roster
from asr_fed.federation.round import (
    Closed,
    RoundPlan,
    audio_seconds,
    check_variances,
    check_weight,
    close_round,
    enough,
    learn,
    older,
    plan_round,
)
from asr_fed.federation.round_numbers import sums
from asr_fed.model.state import StateLayout
from asr_fed.runs.experiment import Experiment
from asr_fed.wire.ask import AWAY, NO_ANSWER, Asked
from asr_fed.wire.messages import TOTALS, ClientSize, Refused, Reply, Report, SharedConfig, Timing

SIZES = {f"c{i}": ClientSize(i, float(i), float(i)) for i in range(1, 8)}
SETUP = SharedConfig("seed: 1", b"")
DELTAS = {name: np.random.default_rng(i).standard_normal(5).astype(np.float32) for i, name in enumerate(SIZES)}
SETTINGS = FederationConfig(cohort=None, local_epochs=1, min_success=0.0)
BOUNDS = partial(weight_bounds, NumExamples())


def roster(*nodes: int) -> Roster:
    reports = {node: Report(f"node {node}", False, SETUP.sha256, SIZES) for node in nodes}
    return Roster(SETUP, reports, set(nodes), dict(SIZES))


def planned(server_round: int = 1, **settings: Any) -> RoundPlan:
    return plan_round(roster(1, 2), CostModel(), replace(SETTINGS, **settings), 1, server_round)


def answer(clients: Iterable[str], without: tuple[str, ...] = ()) -> Reply:
    """Of a node whose client k has weight k, WER k of 10 words, and loss k."""
    update, failures = empty(5), {}
    for name in clients:
        if name in without:
            failures[name] = "ill"
            continue
        number = int(name[1:])
        totals = dict.fromkeys(TOTALS[2:], number) | {"loss": fixed(float(number)), "word_errors": number, "words": 10}
        add_client(update, DELTAS[name], float(number), totals)
    return Reply(update if update.weight else None, failures, Timing())


def answered(plan: RoundPlan, without: tuple[str, ...] = (), lost: tuple[int, ...] = ()) -> Asked[Reply]:
    asked: Asked[Reply] = Asked()
    for each in plan.assignments:
        if each.node in lost:
            asked.failures |= dict.fromkeys(each.clients, NO_ANSWER)
            continue
        asked.answers[each.node] = answer(each.clients, without)
        asked.failures |= asked.answers[each.node].failures
    return asked


def closed(plan: RoundPlan, asked: Asked[Reply], **settings: Any) -> Closed:
    return close_round(plan, asked, SIZES, BOUNDS, replace(SETTINGS, **settings))


def expected_mean(names: Iterable[str]) -> np.ndarray:
    weights = np.array([float(name[1:]) for name in names])
    deltas = np.array([DELTAS[name] for name in names], dtype=np.float64)
    return weights @ deltas / weights.sum()


def test_every_node_is_asked_for_its_share_once() -> None:
    plan = planned(server_round=4)
    assert [each.node for each in plan.assignments] == [1, 2]
    assert sorted(name for each in plan.assignments for name in each.clients) == sorted(SIZES)
    assert [sum(SIZES[name].examples for name in each.clients) for each in plan.assignments] == [14, 14]
    assert plan.cohort == tuple(sorted(SIZES)) and plan.away == ()


def test_the_cohort_is_what_was_asked_for_and_differs_by_round() -> None:
    cohorts = [planned(number, cohort=3).cohort for number in range(1, 9)]
    assert all(len(set(cohort)) == 3 for cohort in cohorts) and len(set(cohorts)) > 1
    assert planned(8, cohort=3).cohort == cohorts[-1], "as after a resume"


def test_more_are_asked_than_are_needed_and_enough_of_them_are_enough() -> None:
    settings = replace(SETTINGS, cohort=4, over_commit=1.5)
    plan = planned(cohort=4, over_commit=1.5)
    assert (len(plan.cohort), plan.wanted) == (6, 4)
    first, second = (answer(each.clients) for each in plan.assignments)
    assert not enough(plan, [first], settings) and enough(plan, [first, second], settings)
    assert not enough(plan, [first, second], replace(settings, over_commit=1.0)), "then only all are"


def test_clients_that_no_node_hosts_now_are_away_and_named() -> None:
    there = roster(1)
    there.clients["elsewhere"] = ClientSize(5, 5.0, 5.0)
    plan = plan_round(there, CostModel(), SETTINGS, 1, 1)
    assert plan.away == ("elsewhere",) and len(plan.cohort) == 8
    result = close_round(plan, answered(plan), there.clients, BOUNDS, SETTINGS)
    assert result.failures == {"elsewhere": AWAY}
    assert result.success == pytest.approx(28 / 33)


class LookedUp(dict[str, ClientSize]):
    """Sizes that are there for who asks by name, and for nobody who goes through all of them."""

    def _refused(self, *_: object) -> Any:
        raise AssertionError("a round went through all registered clients")

    __iter__ = keys = values = items = copy = _refused


def test_a_round_looks_at_its_cohort_alone() -> None:
    """There may be a million clients registered."""
    there = roster(1, 2)
    assert there.names == sorted(SIZES)
    there.clients = LookedUp(SIZES)
    settings, cost = replace(SETTINGS, cohort=3), CostModel()
    plan = plan_round(there, cost, settings, 1, 1)
    close_round(plan, answered(plan), there.clients, BOUNDS, settings)
    learn(cost, plan, answered(plan), there.clients, settings, [(1, plan.cohort[0], 2.0)])
    assert cost.predict(1, audio_seconds(SIZES[plan.cohort[0]], settings)) == pytest.approx(2.0)


def test_the_mean_is_weighted_and_the_numbers_are_sums() -> None:
    plan = planned()
    result = closed(plan, answered(plan))
    assert result.update is not None and result.failures == {} and result.success == 1.0
    np.testing.assert_allclose(mean(result.update), expected_mean(SIZES), rtol=1e-6, atol=1e-6)
    numbers = sums(result.update)
    assert (numbers["clients"], numbers["weight_sum"], numbers["examples"]) == (7, 28.0, 28)
    assert numbers["effective_clients"] == pytest.approx(28**2 / 140)  # (sum a)^2 / sum a^2
    assert numbers["loss"] == pytest.approx(4.0)
    assert numbers["client_wer"] == pytest.approx(40.0)
    assert numbers["audio_seconds"] == numbers["train_seconds"] == 0.028


def test_the_order_of_the_answers_does_not_matter() -> None:
    results = []
    for turn in (1, -1):
        plan = planned()
        asked = answered(plan)
        asked.answers = dict(list(asked.answers.items())[::turn])
        update = closed(plan, asked).update
        assert update is not None
        results.append((update.sums[DELTA].values.tobytes(), update.weight, update.totals))
    assert results[0] == results[1]


def test_a_failed_client_is_named_and_does_not_count() -> None:
    plan = planned()
    result = closed(plan, answered(plan, without=("c2", "c7")))
    rest = [name for name in SIZES if name not in ("c2", "c7")]
    assert result.update is not None and result.update.totals["clients"] == 5
    np.testing.assert_allclose(mean(result.update), expected_mean(rest), rtol=1e-6, atol=1e-6)
    assert result.failures == {"c2": "ill", "c7": "ill"}


def test_a_lost_node_loses_its_clients_only() -> None:
    plan = planned()
    first, second = plan.assignments
    result = closed(plan, answered(plan, lost=(second.node,)))
    assert result.update is not None
    np.testing.assert_allclose(mean(result.update), expected_mean(first.clients), rtol=1e-6, atol=1e-6)
    assert result.failures == dict.fromkeys(second.clients, NO_ANSWER)


def test_too_little_of_the_cohort_is_no_update() -> None:
    plan = planned()
    assert closed(plan, answered(plan, without=tuple(SIZES))).update is None
    half = answered(plan, lost=(2,))
    assert closed(plan, half, min_success=0.6).update is None
    assert closed(plan, half, min_success=0.5).update is not None


def test_too_few_nodes_for_the_rule_are_no_update_and_end_no_run_at_once() -> None:
    plan = planned()
    result = closed(plan, answered(plan), robust=RobustConfig(rule=Rule.multi_krum, liars=1))
    assert result.update is None and result.success == 1
    assert result.refused == "multi_krum with liars=1 needs 5 nodes, and 2 have answered"


def test_a_weight_that_its_clients_cannot_have_is_refused() -> None:
    names = ("c1", "c2")
    honest = answer(names)
    assert check_weight(honest, names, SIZES, BOUNDS) is honest
    assert check_weight(answer(names, without=names), names, SIZES, BOUNDS).update is None
    for others in (("c1", "c3"), ("c1", "c1")):
        with pytest.raises(Refused, match="a weight of"):
            check_weight(honest, others, SIZES, BOUNDS)


def test_a_client_costs_the_audio_it_goes_through(experiment: Experiment) -> None:
    client = max(experiment.partition.clients, key=lambda client: len(client.train))
    hosted, config = client_size(client), experiment.config.federation
    seconds = sum(utterance.duration for utterance in client.train)
    assert audio_seconds(hosted, replace(config, local_epochs=3)) == pytest.approx(3 * seconds + seconds)
    # 5 steps of 4 utterances are two passes over ten
    assert audio_seconds(hosted, replace(config, local_steps=5)) == pytest.approx(2 * seconds + seconds)


def test_a_claim_that_never_delivers_does_not_fail_the_round() -> None:
    """It would, if a client counted towards success by what it claims: 2^40 of 2^40 + 27."""
    sizes = SIZES | {"c8": ClientSize(2**40, 1.0, 1.0)}
    reports = {
        1: Report("honest", False, SETUP.sha256, SIZES),
        2: Report("liar", True, SETUP.sha256, {"c8": sizes["c8"]}),
    }
    there = Roster(SETUP, reports, {1, 2}, sizes)
    plan = plan_round(there, CostModel(), SETTINGS, 1, 1)
    result = close_round(plan, answered(plan, lost=(2,)), sizes, BOUNDS, replace(SETTINGS, min_success=0.5))
    assert result.update is not None and result.success > 0.6
    assert result.failures == {"c8": NO_ANSWER}


def owned(**clients: int) -> Roster:
    """Nodes by name, each with so many clients of its own, all alike."""
    hosted = {
        name: {f"{name}-{number}": ClientSize(5, 1.0, 1.0) for number in range(count)}
        for name, count in clients.items()
    }
    reports = {node: Report(name, True, SETUP.sha256, hosted[name]) for node, name in enumerate(hosted, start=1)}
    return Roster(
        SETUP, reports, set(reports), {client: size for each in hosted.values() for client, size in each.items()}
    )


def arrived(plan: RoundPlan, *nodes: int) -> Asked[Reply]:
    """Those nodes have answered, with an update that counts 1 for each client."""
    asked: Asked[Reply] = Asked()
    for each in plan.assignments:
        if each.node not in nodes:
            asked.failures |= dict.fromkeys(each.clients, NO_ANSWER)
            continue
        update = empty(5)
        for _ in each.clients:
            add_client(update, np.ones(5, np.float32), 5.0, dict.fromkeys(TOTALS[2:], 1))
        asked.answers[each.node] = Reply(update, {})
    return asked


def success(there: Roster, *nodes: int) -> float:
    plan = plan_round(there, CostModel(), SETTINGS, 1, 1)
    return close_round(plan, arrived(plan, *nodes), there.clients, BOUNDS, SETTINGS).success


def test_a_node_with_most_of_the_clients_neither_fails_a_round_alone_nor_makes_it_up_alone() -> None:
    """Counted by clients, 100 of 108 would be missing, or there."""
    there = owned(liar=100, a=2, b=2, c=2, d=2)
    assert success(there, 2, 3, 4, 5) == pytest.approx(4 / 5)
    assert success(there, 1) == pytest.approx(6 / 14)
    assert success(there, 1, 2, 3, 4, 5) == 1.0
    assert success(owned(a=2, b=3, c=1), 2) == pytest.approx(3 / 6), "nodes that are not far apart count as they are"


@pytest.mark.parametrize("claimed", [5, 300, 100_000, 2**40])
def test_one_of_three_silos_that_does_not_deliver_ends_no_run(claimed: int) -> None:
    """Capped at three times the median node it still was 60 % of the round, of which half has to arrive."""
    there = owned(a=1, b=1, liar=1)
    there.clients["liar-0"] = ClientSize(claimed, 1.0, 1.0)
    assert success(there, 1, 2) == pytest.approx(2 / 3)
    assert success(there, 1) == pytest.approx(1 / 3)
    assert success(there, 1, 2, 3) == 1.0


def test_of_two_silos_nobody_can_say_which_one_is_the_liar() -> None:
    there = owned(a=1, liar=1)
    there.clients["liar-0"] = ClientSize(100_000, 1.0, 1.0)
    assert success(there, 1) == pytest.approx(1 / 2)


def test_silos_do_not_stand_for_simulated_clients_that_are_missing() -> None:
    """A virtual node is as many voices as it has clients."""
    there = owned(a=1, b=1, virtual=8)
    there.nodes[3] = replace(there.nodes[3], own=False)
    assert success(there, 1, 2) == pytest.approx(2 / 5), "by weight, of which a node has three times the median"
    assert success(there, 1, 3) == pytest.approx(9 / 10)


def test_a_silo_that_delivers_in_part_has_that_part_of_its_voice() -> None:
    there = owned(a=4, b=1, c=1)
    plan = plan_round(there, CostModel(), SETTINGS, 1, 1)
    asked = arrived(plan, 1, 2, 3)
    asked.failures |= {"a-0": "ill", "a-1": "ill"}
    assert close_round(plan, asked, there.clients, BOUNDS, SETTINGS).success == pytest.approx(2.5 / 3)


def test_a_node_with_most_of_the_clients_is_not_enough_of_an_over_committed_round() -> None:
    there, settings = owned(liar=40, a=2, b=2, c=2, d=2), replace(SETTINGS, cohort=24, over_commit=2.0)
    plan = plan_round(there, CostModel(), settings, 1, 1)
    replies = arrived(plan, 1, 2, 3, 4, 5).answers
    assert len(plan.cohort) == len(there.clients) and plan.wanted == 24
    assert not enough(plan, [replies[1]], settings), "40 of 24 wanted"
    assert not enough(plan, [replies[2], replies[3]], settings)
    assert enough(plan, [replies[1], replies[2]], settings)
    assert enough(plan, [replies[node] for node in (2, 3, 4, 5)], settings)


def test_a_node_gets_its_share_of_a_cohort_at_most() -> None:
    there = owned(liar=100, a=2, b=2, c=2, d=2)
    robust = RobustConfig(node_share=0.25)
    plan = plan_round(there, CostModel(), replace(SETTINGS, cohort=8, robust=robust), 1, 1)
    assert len(plan.cohort) == plan.wanted == 8
    assert max(len(each.clients) for each in plan.assignments) == 2
    everybody = plan_round(there, CostModel(), replace(SETTINGS, robust=robust), 1, 1)
    assert sorted(len(each.clients) for each in everybody.assignments) == [2, 2, 2, 2, 2]
    there.online = {2, 3, 4, 5}
    away = plan_round(there, CostModel(), replace(SETTINGS, cohort=8, robust=robust), 1, 1)
    assert len(away.away) <= 2, "nor do clients of a node that has left take the places of others"


def test_a_variance_below_0_is_refused() -> None:
    layout = StateLayout(("weight", "norm.running_mean", "norm.running_var"), (2, 1, 2), 2)
    weights = np.array([1.0, 1.0, 0.0, 0.5, 2.0], np.float32)

    def reply(*variances: float) -> Reply:
        update = empty(5)
        add_client(update, np.array([-9.0, -9.0, -9.0, *variances], np.float32), 1.0, dict.fromkeys(TOTALS[2:], 1))
        return Reply(update, {})

    check_variances(reply(-0.5, -1.0), weights, layout)
    check_variances(Reply(None, {}), weights, layout)
    for variances in ((-0.6, 0.0), (0.0, -3.0)):
        with pytest.raises(Refused, match="variance below 0"):
            check_variances(reply(*variances), weights, layout)


def test_old_updates_add_up_to_the_same_bits_however_clients_are_grouped() -> None:
    """Rounding each answer of its own would give each grouping another last bit."""
    sent, now = np.zeros(5, dtype=np.float32), np.full(5, 0.1, dtype=np.float32)
    age = partial(aged, staleness=2, sent=sent, now=now, parameters=3)

    def total(*groups: tuple[str, ...]) -> list[int]:
        found = older(Asked({node: answer(names) for node, names in enumerate(groups, 1)}), age).answers
        updates = [reply.update for reply in found.values() if reply.update is not None]
        assert all(np.abs(each.sums[DELTA].values).max() <= each.sums[DELTA].peak for each in updates)
        merged = merge(updates)
        return [*map(int, merged.sums[DELTA].values), merged.weight]

    whole = age(answer(SIZES).update)  # type: ignore[arg-type]
    expected = [*map(int, whole.sums[DELTA].values), whole.weight]
    one, two, *others = SIZES
    assert total(tuple(SIZES)) == total((one,), (two, *others)) == total(*((name,) for name in SIZES)) == expected
