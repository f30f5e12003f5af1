"""How far one node that lies can move the sum of others that do not."""

import numpy as np
import pytest

from asr_fed.aggregation.robust import REMEMBERED, combine, describe_unbounded, multi_krum, norm, remembered
from asr_fed.aggregation.update import DELTA, LIMIT, Sum, Update, UpdateRefused, add_client, empty, mean, merge
from asr_fed.config.federation import RobustConfig, Rule

LENGTH, PARAMETERS = 40, 30
HONEST = 9


def node(delta: np.ndarray, weight: float = 1.0, clients: int = 1) -> Update:
    update = empty(LENGTH, {"control": 2})
    for _ in range(clients):
        add_client(update, delta.astype(np.float32), weight, {"examples": 5}, {"control": np.ones(2, np.float32)})
    return update


@pytest.fixture
def honest() -> list[Update]:
    rng = np.random.default_rng(3)
    return [node(0.1 + 0.01 * rng.standard_normal(LENGTH), weight=1.0 + number) for number in range(HONEST)]


def attack(scale: float) -> Update:
    return node(np.full(LENGTH, scale), weight=1.0)


def test_without_a_choice_it_is_the_sum_bit_by_bit(honest: list[Update]) -> None:
    expected = merge([node(mean(each), each.weight / 2**32) for each in honest])
    combined = combine([node(mean(each), each.weight / 2**32) for each in honest], RobustConfig()).update
    for name, each in expected.sums.items():
        np.testing.assert_array_equal(combined.sums[name].values, each.values)
    assert combined.totals == expected.totals


@pytest.mark.parametrize(
    "settings",
    [
        RobustConfig(clip=1.0),
        RobustConfig(clip_median=2.0),
        RobustConfig(rule=Rule.median),
        RobustConfig(rule=Rule.trimmed_mean, trim=0.2),
        RobustConfig(rule=Rule.multi_krum, liars=1),
    ],
    ids=["clip", "clip_median", "median", "trimmed_mean", "multi_krum"],
)
@pytest.mark.parametrize("scale", [1000.0, -1000.0])
def test_a_node_that_reports_a_thousand_moves_little(
    honest: list[Update], settings: RobustConfig, scale: float
) -> None:
    alone = mean(merge([node(mean(each), each.weight / 2**32) for each in honest]))
    undefended = mean(merge([*(node(mean(each), each.weight / 2**32) for each in honest), attack(scale)]))
    assert np.abs(undefended - alone).max() > 10
    combined = combine([*honest, attack(scale)], settings, PARAMETERS).update
    assert np.abs(mean(combined) - alone).max() < 0.1
    assert combined.totals["clients"] == HONEST + 1
    assert combined.sums["control"].weight == (HONEST + 1) << 32
    assert np.abs(combined.sums[DELTA].values).max() <= combined.sums[DELTA].peak


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (RobustConfig(), True),
        (RobustConfig(node_share=0.3), True),
        (RobustConfig(clip=1.0), False),
        (RobustConfig(clip_median=3.0), False),
        (RobustConfig(rule=Rule.median), False),
    ],
)
def test_an_operator_who_lets_any_node_replace_the_model_is_told(settings: RobustConfig, told: bool) -> None:
    assert bool(describe_unbounded(settings)) == told


def test_an_honest_node_is_not_clipped(honest: list[Update]) -> None:
    longest = max(norm(each, (DELTA, slice(PARAMETERS))) for each in honest)
    expected = [each.sums[DELTA].values.copy() for each in honest]
    combined = combine(honest, RobustConfig(clip=longest), PARAMETERS)
    assert combined.clipped == 0
    np.testing.assert_array_equal(combined.update.sums[DELTA].values, sum(expected))


def test_of_two_nodes_neither_is_the_median() -> None:
    """clip_median has nothing to go by then."""
    combined = combine([attack(0.1), attack(1000.0)], RobustConfig(clip_median=1.0))
    assert mean(combined.update)[0] == pytest.approx(500.05, rel=1e-3) and combined.norms is None


def test_liars_who_are_most_of_one_round_do_not_say_what_is_usual(honest: list[Update]) -> None:
    """The median norm over the nodes of a round is theirs; over five rounds it is not."""
    settings, past = RobustConfig(clip_median=2.0), []
    for _ in range(REMEMBERED + 2):
        past = remembered(past, combine(honest, settings, PARAMETERS, past).norms)
    assert len(past) == REMEMBERED - 1, "not more is kept"
    for liars in (1, HONEST + 1):
        nodes = [*honest, *[attack(1000.0)] * liars]
        defended = combine(nodes, settings, PARAMETERS, past)
        assert np.abs(mean(defended.update)).max() < 0.25 and defended.clipped == liars
    assert mean(combine(nodes, settings, PARAMETERS).update).max() > 10, "the test needs an attack"
    two = combine([honest[0], attack(1000.0)], settings, PARAMETERS, past)
    assert np.abs(mean(two.update)).max() < 0.25 and two.norms is None, "of two nodes as well, once more were there"


def test_nodes_that_learn_nothing_do_not_say_what_is_usual(honest: list[Update]) -> None:
    """Silos that trust none of their pseudo labels send a change of 0, and may be most of all, round after round."""
    settings = RobustConfig(clip_median=2.0)
    silent = [node(np.zeros(LENGTH), weight=2.0**-16) for _ in range(20)]
    nothing = combine(silent, settings, PARAMETERS)
    assert nothing.norms is None and nothing.clipped == 0, "a round of them says nothing to later ones"
    two = combine([*silent, *honest[:2]], settings, PARAMETERS)
    assert two.norms is None and two.clipped == 0, "of two that have learned neither is usual"
    alone = combine(honest, settings, PARAMETERS)
    for liars in (0, 1):
        among = combine([*silent, *honest, *[attack(1000.0)] * liars], settings, PARAMETERS)
        assert among.clipped == liars and among.norms == pytest.approx(alone.norms, rel=0.05)
        assert mean(among.update)[:PARAMETERS] == pytest.approx(0.1, abs=0.02)


def test_updates_that_become_longer_and_longer_are_usual_after_a_while(honest: list[Update]) -> None:
    settings, past, clipped = RobustConfig(clip_median=2.0), [], []
    for size in (1, 1, 1, 1, 10, 10, 10, 10):
        grown = combine([node(size * mean(each), 1.0) for each in honest], settings, PARAMETERS, past)
        past = remembered(past, grown.norms)
        clipped.append(grown.clipped)
    assert clipped == [0, 0, 0, 0, HONEST, HONEST, 0, 0]


def test_the_median_is_that_of_each_entry() -> None:
    nodes = [node(np.full(LENGTH, value), weight) for value, weight in ((1.0, 9.0), (2.0, 1.0), (7.0, 1.0))]
    np.testing.assert_allclose(mean(combine(nodes, RobustConfig(rule=Rule.median)).update), 2.0, rtol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [RobustConfig(clip_median=1.5), RobustConfig(rule=Rule.median), RobustConfig(rule=Rule.multi_krum)],
    ids=["clip_median", "median", "multi_krum"],
)
@pytest.mark.parametrize("lie", ["buffers", "control"])
def test_a_node_that_lies_about_something_else_than_parameters_moves_little(
    honest: list[Update], settings: RobustConfig, lie: str
) -> None:
    """Such as a running variance of 1e6, which no norm of the parameters shows."""
    delta, control = np.full(LENGTH, 0.1), np.ones(2)
    if lie == "buffers":
        delta[PARAMETERS:] = 1e6
    else:
        control *= 1e6
    liar = empty(LENGTH, {"control": 2})
    add_client(liar, delta.astype(np.float32), 1.0, {"examples": 5}, {"control": control.astype(np.float32)})
    combined = combine([*honest, liar], settings, PARAMETERS).update
    assert np.abs(mean(combined) - 0.1).max() < 0.1
    assert np.abs(mean(combined, "control") - 1).max() < 0.1


def krum_by_the_paper(changes: np.ndarray, liars: int) -> set[int]:
    """The definition, one sum at a time."""
    nodes, scores = len(changes), {}
    for node in range(nodes):
        distances = [
            sum((float(a) - float(b)) ** 2 for a, b in zip(changes[node], changes[other], strict=True))
            for other in range(nodes)
            if other != node
        ]
        scores[node] = sum(sorted(distances)[: nodes - liars - 2])
    return set(sorted(scores, key=lambda node: scores[node])[: nodes - liars - 2])


@pytest.mark.parametrize(("nodes", "liars"), [(3, 0), (5, 1), (10, 3), (23, 10)])
def test_multi_krum_chooses_as_a_plain_loop_does(nodes: int, liars: int) -> None:
    rng = np.random.default_rng(nodes)
    changes = rng.standard_normal((nodes, 6)) + rng.integers(0, 4, (nodes, 1))
    chosen = multi_krum(changes, liars)
    assert set(chosen) == krum_by_the_paper(changes, liars) and len(chosen) == nodes - liars - 2
    changes[:liars] += 50
    assert not set(multi_krum(changes, liars)) & set(range(liars)), "liars who agree are still too few"


def test_multi_krum_takes_the_plain_mean_of_the_chosen(honest: list[Update]) -> None:
    changes = np.stack([mean(each) for each in honest])
    combined = combine([*honest, attack(50.0)], RobustConfig(rule=Rule.multi_krum, liars=1), PARAMETERS).update
    chosen = multi_krum(np.vstack([changes, np.full(LENGTH, 50.0)])[:, :PARAMETERS], 1)
    np.testing.assert_allclose(
        mean(combined)[:PARAMETERS], changes[chosen, :PARAMETERS].mean(axis=0), rtol=1e-6, atol=1e-9
    )


def test_too_few_nodes_for_multi_krum_are_named(honest: list[Update]) -> None:
    with pytest.raises(UpdateRefused, match="liars=4 needs 11 nodes, and 9 have answered"):
        combine(honest, RobustConfig(rule=Rule.multi_krum, liars=4))


def test_a_median_that_leaves_the_range_of_a_sum_is_refused(honest: list[Update]) -> None:
    """Two nodes report the largest mean there is with the least weight, and the third one has all the weight."""
    values = np.full(LENGTH, LIMIT // 2, np.int64)
    lies = [Update({DELTA: Sum(values.copy(), 1 << 32, LIMIT // 2)}, {}) for _ in range(2)]
    with pytest.raises(UpdateRefused, match="too large"):
        combine([*lies, Update({DELTA: Sum(values // 4, 1 << 50, LIMIT // 2)}, {})], RobustConfig(rule=Rule.median))
