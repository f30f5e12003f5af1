"""Sampling by utility: the fast and those with much to learn from are asked more often, everybody at some time."""

from collections import Counter

import pytest

from asr_fed.config.simulation import OortConfig
from asr_fed.simulation.oort import Memory, choose_by_utility, utility

NAMES = [f"c{number:02d}" for number in range(20)]
SECONDS = {name: (10.0 if number % 2 else 100.0) for number, name in enumerate(NAMES)}  # odd ones are fast
EXAMPLES = dict.fromkeys(NAMES, 10)


def choose(memory: Memory, server_round: int, there: list[str] = NAMES, size: int = 6, **settings: float) -> list[str]:
    return choose_by_utility(
        there,
        size,
        memory=memory,
        seconds=SECONDS,
        examples=EXAMPLES,
        settings=OortConfig(**settings),
        seed=3,
        server_round=server_round,
    )


def rounds(count: int, **settings: float) -> Counter[str]:
    memory, asked = Memory(), Counter[str]()
    for server_round in range(1, count + 1):
        cohort = choose(memory, server_round, **settings)
        assert len(set(cohort)) == len(cohort) == 6 and cohort == sorted(cohort)
        memory.add(server_round, cohort, loss=2.0)
        asked.update(cohort)
    return asked


def test_the_fast_are_asked_more_often_and_everybody_is_asked() -> None:
    asked = rounds(60)
    fast, slow = (sum(asked[name] for name in NAMES[start::2]) for start in (1, 0))
    assert fast > 1.5 * slow and all(asked[name] for name in NAMES)
    assert rounds(60) == asked


def test_slowness_counts_by_alpha() -> None:
    settings = OortConfig(alpha=2.0)
    own = {s: utility((1, 2.0), 1, 10, s, 50.0, settings) for s in (25.0, 50.0, 100.0)}
    assert own[25.0] == own[50.0] == 20.0 and own[100.0] == pytest.approx(20.0 * 0.25)
    assert utility((1, 2.0), 1, 10, 100.0, 50.0, OortConfig(alpha=0.0)) == 20.0


def test_more_to_learn_from_and_longer_ago_are_worth_more() -> None:
    def worth(last: tuple[int, float], examples: int = 10) -> float:
        return utility(last, 50, examples, 10.0, 50.0, OortConfig())

    assert worth((5, 3.0)) > worth((5, 2.0)) and worth((5, 2.0), 20) > worth((5, 2.0))
    assert worth((5, 2.0)) > worth((40, 2.0)), "it was not asked for longer"


def test_only_those_who_are_there_and_small_federations() -> None:
    memory = Memory()
    assert choose(memory, 1, NAMES[:6], 6) == NAMES[:6]
    memory.add(1, NAMES[:5], 1.0)
    assert choose(memory, 2, NAMES[:6], 6) == NAMES[:6]
    assert choose(memory, 2, [], 0) == []


@pytest.mark.parametrize("loss", [0.0, -1.0])
def test_a_loss_of_nothing_leaves_everybody_a_chance(loss: float) -> None:
    memory = Memory()
    memory.add(1, NAMES, loss)
    assert len(choose(memory, 2)) == 6
