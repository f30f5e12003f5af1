"""How far one node that lies can move the sum of others that do not."""

import numpy as np
import pytest

from asr_fed.aggregation.robust import combine, norm
from asr_fed.aggregation.update import DELTA, Update, add_client, empty, mean, merge
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
    combined = combine([node(mean(each), each.weight / 2**32) for each in honest], RobustConfig())
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
    ],
    ids=["clip", "clip_median", "median", "trimmed_mean"],
)
@pytest.mark.parametrize("scale", [1000.0, -1000.0])
def test_a_node_that_reports_a_thousand_moves_little(
    honest: list[Update], settings: RobustConfig, scale: float
) -> None:
    alone = mean(merge([node(mean(each), each.weight / 2**32) for each in honest]))
    undefended = mean(merge([*(node(mean(each), each.weight / 2**32) for each in honest), attack(scale)]))
    assert np.abs(undefended - alone).max() > 10
    combined = combine([*honest, attack(scale)], settings, PARAMETERS)
    assert np.abs(mean(combined) - alone).max() < 0.1
    assert combined.totals["clients"] == HONEST + 1
    assert combined.sums["control"].weight == (HONEST + 1) << 32
    assert np.abs(combined.sums[DELTA].values).max() <= combined.sums[DELTA].peak


def test_an_honest_node_is_not_clipped(honest: list[Update]) -> None:
    longest = max(norm(each, PARAMETERS) for each in honest)
    expected = [each.sums[DELTA].values.copy() for each in honest]
    combined = combine(honest, RobustConfig(clip=longest), PARAMETERS)
    np.testing.assert_array_equal(combined.sums[DELTA].values, sum(expected))


def test_of_two_nodes_neither_is_the_median() -> None:
    """clip_median has nothing to go by then."""
    combined = combine([attack(0.1), attack(1000.0)], RobustConfig(clip_median=1.0))
    assert mean(combined)[0] == pytest.approx(500.05, rel=1e-3)


def test_the_median_is_that_of_each_entry() -> None:
    nodes = [node(np.full(LENGTH, value), weight) for value, weight in ((1.0, 9.0), (2.0, 1.0), (7.0, 1.0))]
    np.testing.assert_allclose(mean(combine(nodes, RobustConfig(rule=Rule.median))), 2.0, rtol=1e-6)
