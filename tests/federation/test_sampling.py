"""Whom a round asks, and which node trains whom."""

import itertools
import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_fed.federation.placement import place
from asr_fed.federation.sampling import capped_cohort, cohort_size, sample_cohort
from asr_fed.system.errors import UserError

CLIENTS = [f"c{i:02}" for i in range(20)]


@pytest.mark.parametrize(
    ("cohort", "clients", "size"),
    [(None, 7, 7), (3, 7, 3), (7, 7, 7), (0.5, 7, 4), (1.0, 7, 7), (0.01, 7, 1), (1, 7, 1), (0.1, 4000, 400)],
)
def test_a_cohort_is_a_number_or_a_fraction(cohort: float | None, clients: int, size: int) -> None:
    assert cohort_size(cohort, clients) == size


@pytest.mark.parametrize("cohort", [8, 0, -1])
def test_an_impossible_cohort_names_the_key(cohort: float) -> None:
    with pytest.raises(UserError, match=r"federation\.cohort"):
        cohort_size(cohort, 7)


def test_a_sample_depends_on_seed_and_round_alone() -> None:
    first = sample_cohort(CLIENTS, 6, seed=1, server_round=4)
    assert sample_cohort(CLIENTS, 6, seed=1, server_round=4) == first
    assert first == sorted(set(first)) and set(first) <= set(CLIENTS) and len(first) == 6
    assert sample_cohort(CLIENTS, 6, seed=1, server_round=5) != first
    assert sample_cohort(CLIENTS, 6, seed=2, server_round=4) != first
    assert sample_cohort(CLIENTS, 20, seed=1, server_round=4) == CLIENTS


def test_everybody_is_asked_in_the_long_run() -> None:
    asked = [client for server_round in range(200) for client in sample_cohort(CLIENTS, 5, 3, server_round)]
    counts = [asked.count(client) for client in CLIENTS]
    assert sum(counts) == 1000
    assert min(counts) > 25 and max(counts) < 80  # 50 expected, standard deviation 6


OWNERS = {client: (1 if number < 15 else number) for number, client in enumerate(CLIENTS)}  # 15 of 20 are one node's


def test_a_node_with_most_of_the_clients_gets_its_share_of_a_cohort_at_most() -> None:
    def cohort(server_round: int, share: float = 0.3, size: int = 6, wanted: int = 6) -> list[str]:
        return capped_cohort(CLIENTS, size, wanted, share, OWNERS.get, 1, server_round)

    for server_round in range(20):
        found = cohort(server_round)
        assert len(found) == 6 and found == sorted(set(found))
        assert sum(OWNERS[client] == 1 for client in found) == 1  # of 6, 0.3 are 1.8
        over_committed = cohort(server_round, size=8, wanted=5, share=0.6)
        assert len(over_committed) == 8 and sum(OWNERS[client] == 1 for client in over_committed) == 3, "of 5, not of 8"
    assert cohort(4) == cohort(4) and len({tuple(cohort(number)) for number in range(20)}) > 5


@pytest.mark.parametrize(("share", "size"), [(1.0, 20), (0.5, 10), (0.34, 7), (0.2, 6), (0.01, 6)])
def test_where_nodes_are_too_few_the_cohort_is_smaller(share: float, size: int) -> None:
    found = capped_cohort(CLIENTS, 20, 20, share, OWNERS.get, 1, 1)
    assert len(found) == size
    assert sum(OWNERS[client] == 1 for client in found) <= max(1, share * size)


def test_clients_that_belong_to_nobody_are_not_capped() -> None:
    assert capped_cohort(CLIENTS, 20, 20, 0.1, lambda client: None, 1, 1) == CLIENTS


costs = st.dictionaries(st.sampled_from(CLIENTS), st.floats(0.1, 100), min_size=1)


def place_anywhere(cost: dict[str, float], speeds: dict[int, float]) -> dict[int, list[str]]:
    return place(list(cost), dict.fromkeys(cost, tuple(speeds)), lambda node, client: cost[client] / speeds[node])


@given(costs, st.integers(1, 6))
def test_placement_is_complete_and_within_the_bound_of_graham(cost: dict[str, float], workers: int) -> None:
    placed = place_anywhere(cost, dict.fromkeys(range(1, workers + 1), 1.0))
    assert sorted(client for clients in placed.values() for client in clients) == sorted(cost)
    assert all(placed.values()) and set(placed) <= set(range(1, workers + 1))
    loads = [sum(cost[client] for client in clients) for clients in placed.values()]
    # Graham: 4/3 - 1/(3m) of the best makespan. That is unknown, but no list schedule is above mean plus one client.
    lower_bound = max(sum(cost.values()) / workers, max(cost.values()))
    assert max(loads) <= lower_bound * (2 - 1 / workers) + 1e-9
    for clients in placed.values():
        assert [cost[client] for client in clients] == sorted((cost[c] for c in clients), reverse=True)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=7), st.integers(2, 3))
def test_on_equal_nodes_the_makespan_is_within_a_third_of_the_best(sizes: list[int], workers: int) -> None:
    cost = {f"c{number}": float(size) for number, size in enumerate(sizes)}
    placed = place_anywhere(cost, dict.fromkeys(range(workers), 1.0))
    loads = [sum(cost[client] for client in clients) for clients in placed.values()]
    best = min(
        max(sum(size for size, at in zip(sizes, nodes, strict=True) if at == node) for node in range(workers))
        for nodes in itertools.product(range(workers), repeat=len(sizes))
    )
    assert max(loads) <= best * (4 / 3 - 1 / (3 * workers)) + 1e-9


hosted = st.dictionaries(st.sampled_from(CLIENTS), st.sets(st.integers(1, 5), min_size=1), min_size=1)


@given(hosted, st.randoms(use_true_random=False))
def test_every_client_once_on_a_node_that_hosts_it_in_any_order(hosts: dict[str, set[int]], random: Random) -> None:
    seconds = {(node, client): random.uniform(0.1, 10) for client in sorted(hosts) for node in range(1, 6)}
    placed = place(list(hosts), {c: list(nodes) for c, nodes in hosts.items()}, lambda n, c: seconds[n, c])
    assert sorted(client for clients in placed.values() for client in clients) == sorted(hosts)
    for node, clients in placed.items():
        assert clients and all(node in hosts[client] for client in clients)
        assert [seconds[node, c] for c in clients] == sorted((seconds[node, c] for c in clients), reverse=True)
    shuffled = random.sample(sorted(hosts), len(hosts))
    again = place(shuffled, {c: sorted(hosts[c], reverse=True) for c in shuffled}, lambda n, c: seconds[n, c])
    assert again == placed and list(again) == sorted(again)


def test_placement_by_hand_does_not_depend_on_the_order() -> None:
    cost = {"a": 5.0, "b": 4.0, "c": 3.0, "d": 3.0, "e": 3.0}
    expected = {1: ["a", "d"], 2: ["b", "c", "e"]}
    assert place_anywhere(cost, {1: 1.0, 2: 1.0}) == expected
    assert place_anywhere(dict(reversed(cost.items())), {2: 1.0, 1: 1.0}) == expected
    assert place_anywhere({"a": 5.0}, {1: 1.0, 2: 1.0}) == {1: ["a"]}


def test_load_follows_speed() -> None:
    cost = dict.fromkeys(CLIENTS, 1.0)
    placed = place_anywhere(cost, {1: 1.0, 2: 3.0})
    assert len(placed[1]) == 5 and len(placed[2]) == 15
    assert place_anywhere({"a": 6.0, "b": 1.0}, {1: 1.0, 2: 10.0}) == {2: ["a", "b"]}  # even in turn it ends earlier


def test_clients_of_one_node_are_dealt_first_and_the_others_around_them() -> None:
    cost = {"pinned": 1.0, "tied": 4.0, "x": 3.0, "y": 3.0, "z": 3.0}
    hosts = {"pinned": [1], "tied": [1], "x": [1, 2], "y": [1, 2], "z": [1, 2, 3]}
    placed = place(list(cost), hosts, lambda node, client: cost[client])
    assert placed == {1: ["tied", "pinned"], 2: ["x", "y"], 3: ["z"]}


def test_a_client_that_nobody_hosts_is_named() -> None:
    with pytest.raises(ValueError, match="b"):
        place(["a", "b"], {"a": [1], "b": []}, lambda node, client: 1.0)


def test_thousands_of_clients_are_placed_at_once() -> None:
    cost = {f"c{number:04}": 1.0 + number % 50 for number in range(4000)}
    started = time.process_time()
    placed = place_anywhere(cost, dict.fromkeys(range(16), 1.0))
    assert time.process_time() - started < 1.0  # 0.03 s of this process, however busy the machine is
    loads = [sum(cost[client] for client in clients) for clients in placed.values()]
    assert max(loads) - min(loads) <= 1.0
