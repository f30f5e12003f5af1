"""Whom a round asks, and which worker trains whom."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_fed.errors import UserError
from asr_fed.federation.sampling import cohort_size, place, sample_cohort

CLIENTS = [f"c{i:02}" for i in range(20)]


@pytest.mark.parametrize(
    ("cohort", "clients", "size"),
    [(None, 7, 7), (3, 7, 3), (7, 7, 7), (0.5, 7, 4), (1.0, 7, 7), (0.01, 7, 1), (1, 7, 1), (0.1, 4000, 400)],
)
def test_a_cohort_is_a_number_or_a_fraction(cohort: float | None, clients: int, size: int) -> None:
    assert cohort_size(cohort, clients) == size


@pytest.mark.parametrize("cohort", [8, 0, -1, 1.5, 0.0, -0.5])
def test_an_impossible_cohort_names_the_key(cohort: float) -> None:
    with pytest.raises(UserError, match=r"federation\.cohort"):
        cohort_size(cohort, 7)


def test_a_sample_depends_on_seed_and_round_alone() -> None:
    first = sample_cohort(CLIENTS, 6, seed=1, server_round=4)
    assert sample_cohort(CLIENTS[::-1], 6, seed=1, server_round=4) == first
    assert first == sorted(set(first)) and set(first) <= set(CLIENTS) and len(first) == 6
    assert sample_cohort(CLIENTS, 6, seed=1, server_round=5) != first
    assert sample_cohort(CLIENTS, 6, seed=2, server_round=4) != first
    assert sample_cohort(CLIENTS, 20, seed=1, server_round=4) == CLIENTS


def test_everybody_is_asked_in_the_long_run() -> None:
    asked = [client for server_round in range(200) for client in sample_cohort(CLIENTS, 5, 3, server_round)]
    counts = [asked.count(client) for client in CLIENTS]
    assert sum(counts) == 1000
    assert min(counts) > 25 and max(counts) < 80  # 50 expected, standard deviation 6


costs = st.dictionaries(st.sampled_from(CLIENTS), st.floats(0.1, 100), min_size=1)


@given(costs, st.integers(1, 6))
def test_placement_is_complete_and_within_the_bound_of_graham(cost: dict[str, float], workers: int) -> None:
    placed = place(list(cost), cost, range(1, workers + 1))
    assert sorted(client for clients in placed.values() for client in clients) == sorted(cost)
    assert all(placed.values()) and set(placed) <= set(range(1, workers + 1))
    loads = [sum(cost[client] for client in clients) for clients in placed.values()]
    lower_bound = max(sum(cost.values()) / workers, max(cost.values()))
    # the last one to finish started when all were busy: at most the mean plus one client
    assert max(loads) <= lower_bound * (2 - 1 / workers) + 1e-9
    for clients in placed.values():
        assert [cost[client] for client in clients] == sorted((cost[c] for c in clients), reverse=True)


def test_placement_by_hand_does_not_depend_on_the_order() -> None:
    cost = {"a": 5.0, "b": 4.0, "c": 3.0, "d": 3.0, "e": 3.0}
    expected = {1: ["a", "d"], 2: ["b", "c", "e"]}
    assert place(["a", "b", "c", "d", "e"], cost, [1, 2]) == expected
    assert place(["e", "d", "c", "b", "a"], cost, [2, 1]) == expected
    assert place(["a"], cost, [1, 2]) == {1: ["a"]}
