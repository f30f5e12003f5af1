"""Who keeps a connection, where there are more than places."""

import asyncio
import socket
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack

import pytest

from asr_fed.engines.deployment.connections import TOLD, Connections, Limits, Visit

Told = list[tuple[str, int, str, int]]


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def opened(limits: Limits) -> tuple[Connections, Told]:
    told: Told = []
    return Connections(limits, lambda *entry: told.append(entry)), told


def come(connections: Connections, sockets: ExitStack, *peers: str) -> list[Visit]:
    pairs = [[sockets.enter_context(end) for end in socket.socketpair()] for _ in peers]
    return [connections.enter(pair[0], peer) for pair, peer in zip(pairs, peers, strict=True)]


def run(test: Coroutine[object, object, None]) -> None:
    asyncio.run(test)


def test_a_crowd_at_one_address_is_in_its_own_way(sockets: ExitStack) -> None:
    async def test() -> None:
        connections, _ = opened(Limits(strangers=3))
        early, first, second = come(connections, sockets, "192.0.2.1", "192.0.2.9", "192.0.2.9")
        third, late = come(connections, sockets, "192.0.2.9", "192.0.2.2")
        assert list(connections.strangers) == [early, third, late]
        assert late.welcome("clinic") and early.welcome("school"), "they are strangers no longer"
        crowd = come(connections, sockets, *["192.0.2.9"] * 5)
        assert list(connections.strangers) == crowd[-3:] and connections.members == {"clinic": 1, "school": 1}
        assert not first.welcome("clinic") and not second.welcome("clinic"), "they are closed"

    run(test())


def test_a_member_has_so_many_connections_and_gives_them_back(sockets: ExitStack) -> None:
    async def test() -> None:
        connections, _ = opened(Limits(of_member=2))
        first, second, third, other = come(connections, sockets, *["192.0.2.1"] * 4)
        assert first.welcome("clinic") and second.welcome("clinic") and first.welcome("clinic")
        assert not third.welcome("clinic") and other.welcome("school")
        connections.leave(first)
        connections.leave(first)
        assert third.welcome("clinic") and connections.members == {"clinic": 2, "school": 1}

    run(test())


def test_a_flood_is_a_few_lines_of_the_log(sockets: ExitStack) -> None:
    async def test() -> None:
        connections, told = opened(Limits(told_every=0.0))
        for number in range(30):
            for _ in range(3 if number == 7 else 1):
                connections.refused(f"192.0.2.{number}", 408, "no word")
        while not told:
            await asyncio.sleep(0)
        assert len(told) == TOLD + 1
        assert told[0] == ("192.0.2.7", 408, "no word", 3) and told[-1] == ("?", 503, "10 more addresses", 10)

    run(test())
