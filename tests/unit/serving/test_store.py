"""Redis as the reader sees it: what is read at a refresh, and what becomes of one that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import uvloop

from include.serving.address import Address
from include.serving.asked import Asked
from include.serving.memory import Memory
from include.serving.metrics import Metrics
from include.serving.resp import StoreAwayError
from include.serving.store import Store
from tests.unit.serving.lists import names, packed
from tests.unit.serving.loopback import Command, Talk, holds, keeping, listening, replying


@dataclass
class Parts:
    """A store with what it fills."""

    address: Address
    memory: Memory = field(default_factory=Memory)
    metrics: Metrics = field(default_factory=Metrics)
    store: Store = field(init=False)
    asked: Asked = field(init=False)

    def __post_init__(self) -> None:
        self.asked = Asked(self.metrics)
        self.store = Store(self.address, self.memory, self.asked, self.metrics)

    def popular(self) -> list[str]:
        """The items of the popular list."""
        answer = self.memory.popular.answer(60)
        return names(answer.items) if answer else []


@asynccontextmanager
async def parts(talk: Talk) -> AsyncIterator[Parts]:
    """A store whose Redis talks so; not refreshed yet."""
    async with listening(talk) as address:
        made = Parts(address)
        try:
            yield made
        finally:
            await made.store.close()


def test_a_refresh_reads_generation_and_popular_list() -> None:
    """Both are there after one refresh, and taken anew at the next."""
    values = {b"recs:current": b"g", b"popular:g": packed("a")}

    async def scenario() -> None:
        async with parts(replying(keeping(values))) as made:
            await made.store.refresh()
            assert (made.memory.generation, made.popular()) == ("g", ["a"])
            values.update({b"recs:current": b"h", b"popular:h": packed("b")})
            await made.store.refresh()
            assert (made.memory.generation, made.popular()) == ("h", ["b"])

    uvloop.run(scenario())


def test_what_is_gone_from_redis_stays_known() -> None:
    """A Redis that came back empty takes neither the generation nor the popular list away, but is told as not ready."""
    values = {b"recs:current": b"g", b"popular:g": packed("a")}

    async def scenario() -> None:
        async with parts(replying(keeping(values))) as made:
            await made.store.refresh()
            assert made.store.has_current is True
            values.clear()
            await made.store.refresh()
            assert (made.store.has_current, made.memory.generation, made.popular()) == (False, "g", ["a"])

    uvloop.run(scenario())


def test_an_unreadable_popular_list_is_counted() -> None:
    """The former stays, and Prometheus hears of it; Redis is not away for that."""
    values = {b"recs:current": b"g", b"popular:g": packed("a")}

    async def scenario() -> None:
        async with parts(replying(keeping(values))) as made:
            await made.store.refresh()
            values[b"popular:g"] = b"no list"
            await made.store.refresh()
            assert made.popular() == ["a"]
            assert made.metrics.redis_errors["unreadable"] == 1
            assert not made.store.breaker.is_open

    uvloop.run(scenario())


def test_reads_fail_at_once_while_redis_is_away() -> None:
    """Nothing waits for a Redis that was never reached: the reason is raised before anything is sent."""

    async def scenario() -> None:
        made = Parts(Address(port=1))
        with pytest.raises(StoreAwayError, match="not reached yet"):
            made.store.get(b"key")
        await made.store.refresh()
        assert made.store.breaker.is_open
        with pytest.raises(StoreAwayError, match="no connection to"):
            made.store.get(b"key")

    uvloop.run(scenario())


def test_a_redis_that_refuses_is_away_until_it_answers() -> None:
    """A server that is loading is connected to anew, and reads go through once it answers."""
    replies = [b"-LOADING Redis is loading the dataset in memory\r\n"]
    keeps = keeping({b"recs:current": b"g", b"key": b"value"})

    def reply(command: Command) -> bytes:
        return replies[0] if replies else keeps(command)

    async def scenario() -> None:
        async with parts(replying(reply)) as made:
            await made.store.refresh()
            assert "LOADING" in made.store.reason
            with pytest.raises(StoreAwayError, match="LOADING"):
                made.store.get(b"key")
            replies.clear()
            await made.store.refresh()
            assert await made.store.get(b"key") == b"value"

    uvloop.run(scenario())


def test_a_connection_that_ends_with_its_first_replies_is_not_kept() -> None:
    """One that is lost before the store listens for it counts as failed, and the next refresh connects anew."""
    heard: list[Command] = []
    keeps = keeping({b"key": b"value"})

    def reply(command: Command) -> bytes:
        # the first reply comes together with one that nobody asked for
        return keeps(command) * (2 if len(heard) == 1 else 1)

    async def scenario() -> None:
        async with parts(replying(reply, heard)) as made:
            await made.store.refresh()
            assert made.store.breaker.is_open
            assert made.metrics.redis_errors["away"] == 1
            await made.store.refresh()
            assert await made.store.get(b"key") == b"value"

    uvloop.run(scenario())


def test_the_keeper_brings_a_lost_connection_back() -> None:
    """A connection that Redis ended is replaced by another without anybody asking for it."""
    connections: list[asyncio.StreamWriter] = []
    answers = replying(keeping({b"recs:current": b"g", b"key": b"value"}))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await answers(reader, writer)

    async def scenario() -> None:
        async with parts(talk) as made:
            keeper = asyncio.create_task(made.store.keep())
            await holds(lambda: not made.store.breaker.is_open)
            connections[0].transport.abort()
            await holds(lambda: len(connections) == 2 and not made.store.breaker.is_open)
            assert await made.store.get(b"key") == b"value"
            keeper.cancel()

    uvloop.run(scenario())


def test_a_redis_that_only_reads_is_no_redis_that_is_away() -> None:
    """Where who asked may not be told, lists are still read, and the refusal is counted."""
    values = keeping({b"recs:current": b"g", b"key": b"value"})

    def reply(command: Command) -> bytes:
        return values(command) if command[0] == b"GET" else b"-READONLY You can't write against a read only replica\r\n"

    async def scenario() -> None:
        async with parts(replying(reply)) as made:
            made.asked.note(b"u", 1)
            for _ in range(2):
                await made.store.refresh()
            assert made.metrics.redis_errors["reply"] == 1
            assert not made.store.breaker.is_open
            assert await made.store.get(b"key") == b"value"

    uvloop.run(scenario())


def test_who_asked_is_told_at_the_end() -> None:
    """A shutdown does not wait for the next time to tell."""
    heard: list[Command] = []

    async def scenario() -> None:
        async with parts(replying(keeping({}), heard)) as made:
            for _ in range(2):
                await made.store.refresh()
            made.asked.note(b"u", 1_764_000_000)

    uvloop.run(scenario())
    assert [b"ZADD", b"recs:asked", b"GT", b"1764000000", b"u"] in heard


def test_it_is_not_ready_before_the_popular_list_was_read() -> None:
    """Who is told that lists are there finds one, whoever asks."""
    ready: list[bool] = []
    keeps = keeping({b"recs:current": b"g", b"popular:g": packed("a")})

    async def scenario() -> None:
        def reply(command: Command) -> bytes:
            if command[1] == b"popular:g":
                ready.append(made.store.has_current)
            return keeps(command)

        async with parts(replying(reply)) as made:
            await made.store.refresh()
            assert made.store.has_current

    uvloop.run(scenario())
    assert ready == [False]
