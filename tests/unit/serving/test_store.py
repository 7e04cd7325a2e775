"""The reader's access to Redis: what a refresh reads, and how failures are handled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import uvloop

from include.serving.address import RedisAddress
from include.serving.cache import ListCache
from include.serving.metrics import Metrics
from include.serving.recent_readers import RecentReaders
from include.serving.resp import StoreUnavailableError
from include.serving.store import Store
from tests.unit.serving.lists import get_item_ids, pack_items
from tests.unit.serving.loopback import Command, Handler, look_up, reply_with, serve, wait_until
from tests.unit.serving.samples import get_samples


@dataclass
class Parts:
    """A store and the parts it works with."""

    address: RedisAddress
    cache: ListCache = field(default_factory=ListCache)
    metrics: Metrics = field(default_factory=Metrics)
    store: Store = field(init=False)
    recent_readers: RecentReaders = field(init=False)

    def __post_init__(self) -> None:
        self.recent_readers = RecentReaders(self.metrics)
        self.store = Store(self.address, self.cache, self.recent_readers, self.metrics)

    def count_redis_errors(self, kind: str) -> float:
        """Returns the number of Redis errors of this kind."""
        return get_samples(self.metrics)[f'millrace_reader_redis_errors_total{{kind="{kind}"}}']

    def get_gauges(self) -> tuple[float, float]:
        """Returns the gauges of the open breaker and of the known generation."""
        samples = get_samples(self.metrics)
        return samples["millrace_reader_breaker_open"], samples["millrace_reader_generation_known"]

    def popular_items(self) -> list[str]:
        """The item ids of the popular list."""
        rendered = self.cache.popular.render(60)
        return get_item_ids(rendered.items) if rendered else []


@asynccontextmanager
async def build_parts(handler: Handler) -> AsyncIterator[Parts]:
    """Build a store connected to a server with this handler; nothing has been refreshed yet."""
    async with serve(handler) as address:
        parts = Parts(address)
        try:
            yield parts
        finally:
            await parts.store.close()


def test_a_refresh_reads_the_generation_and_the_popular_list() -> None:
    """Both are available after one refresh, and each later refresh reads them again."""
    values = {b"recs:current": b"g", b"popular:g": pack_items("a")}

    async def scenario() -> None:
        async with build_parts(reply_with(look_up(values))) as parts:
            await parts.store.refresh()
            assert (parts.cache.generation, parts.popular_items()) == ("g", ["a"])
            values.update({b"recs:current": b"h", b"popular:h": pack_items("b")})
            await parts.store.refresh()
            assert (parts.cache.generation, parts.popular_items()) == ("h", ["b"])

    uvloop.run(scenario())


def test_values_deleted_from_redis_stay_cached() -> None:
    """If Redis returns without data, the generation and the popular list remain, but the reader is not ready."""
    values = {b"recs:current": b"g", b"popular:g": pack_items("a")}

    async def scenario() -> None:
        async with build_parts(reply_with(look_up(values))) as parts:
            await parts.store.refresh()
            assert parts.store.has_current is True
            values.clear()
            await parts.store.refresh()
            assert (parts.store.has_current, parts.cache.generation, parts.popular_items()) == (False, "g", ["a"])

    uvloop.run(scenario())


def test_an_unreadable_popular_list_is_counted() -> None:
    """The current list remains and the error is counted, without treating Redis as unavailable."""
    values = {b"recs:current": b"g", b"popular:g": pack_items("a")}

    async def scenario() -> None:
        async with build_parts(reply_with(look_up(values))) as parts:
            await parts.store.refresh()
            values[b"popular:g"] = b"not a list"
            await parts.store.refresh()
            assert parts.popular_items() == ["a"]
            assert parts.count_redis_errors("unreadable") == 1
            assert not parts.store.breaker.is_open

    uvloop.run(scenario())


def test_the_state_of_redis_is_a_metric() -> None:
    """The gauges follow the circuit breaker and the generation."""

    async def scenario() -> None:
        async with build_parts(reply_with(look_up({b"recs:current": b"g"}))) as parts:
            assert parts.get_gauges() == (1, 0)
            await parts.store.refresh()
            assert parts.get_gauges() == (0, 1)
            await parts.store.close()
            assert parts.get_gauges() == (1, 1)

    uvloop.run(scenario())


def test_reads_fail_immediately_while_redis_is_down() -> None:
    """No request waits for an unreachable Redis: the reason is raised before anything is sent."""

    async def scenario() -> None:
        parts = Parts(RedisAddress(port=1))
        with pytest.raises(StoreUnavailableError, match="not connected yet"):
            parts.store.get(b"key")
        await parts.store.refresh()
        assert parts.store.breaker.is_open
        with pytest.raises(StoreUnavailableError, match="cannot connect to"):
            parts.store.get(b"key")

    uvloop.run(scenario())


def test_a_redis_that_returns_errors_is_unavailable_until_it_answers() -> None:
    """While the server is loading, the store reconnects, and reads go through as soon as it answers."""
    errors = [b"-LOADING Redis is loading the dataset in memory\r\n"]
    look_up_value = look_up({b"recs:current": b"g", b"key": b"value"})

    def get_reply(command: Command) -> bytes:
        return errors[0] if errors else look_up_value(command)

    async def scenario() -> None:
        async with build_parts(reply_with(get_reply)) as parts:
            await parts.store.refresh()
            assert "LOADING" in parts.store.reason
            with pytest.raises(StoreUnavailableError, match="LOADING"):
                parts.store.get(b"key")
            errors.clear()
            await parts.store.refresh()
            assert await parts.store.get(b"key") == b"value"

    uvloop.run(scenario())


def test_a_connection_lost_during_its_first_reads_is_discarded() -> None:
    """A connection lost before the store starts watching it counts as a failure, and the next refresh reconnects."""
    received: list[Command] = []
    look_up_value = look_up({b"key": b"value"})

    def get_reply(command: Command) -> bytes:
        # The first reply is followed by an unsolicited one, which closes the connection.
        return look_up_value(command) * (2 if len(received) == 1 else 1)

    async def scenario() -> None:
        async with build_parts(reply_with(get_reply, received)) as parts:
            await parts.store.refresh()
            assert parts.store.breaker.is_open
            assert parts.count_redis_errors("away") == 1
            await parts.store.refresh()
            assert await parts.store.get(b"key") == b"value"

    uvloop.run(scenario())


def test_the_refresh_loop_restores_a_lost_connection() -> None:
    """When Redis closes the connection, the loop opens another without waiting for a request."""
    connections: list[asyncio.StreamWriter] = []
    answer = reply_with(look_up({b"recs:current": b"g", b"key": b"value"}))

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await answer(reader, writer)

    async def scenario() -> None:
        async with build_parts(handle) as parts:
            refresh_loop = asyncio.create_task(parts.store.run_refresh_loop())
            await wait_until(lambda: not parts.store.breaker.is_open)
            connections[0].transport.abort()
            await wait_until(lambda: len(connections) == 2 and not parts.store.breaker.is_open)
            assert await parts.store.get(b"key") == b"value"
            refresh_loop.cancel()

    uvloop.run(scenario())


def test_a_read_only_redis_is_still_available() -> None:
    """If recent readers cannot be written, lists are still served and the errors are counted."""
    look_up_value = look_up({b"recs:current": b"g", b"key": b"value"})

    def get_reply(command: Command) -> bytes:
        if command[0] == b"GET":
            return look_up_value(command)
        return b"-READONLY You can't write against a read only replica\r\n"

    async def scenario() -> None:
        async with build_parts(reply_with(get_reply)) as parts:
            parts.recent_readers.record(b"u", 1)
            for _ in range(2):
                await parts.store.refresh()
            assert parts.count_redis_errors("reply") == 1
            assert not parts.store.breaker.is_open
            assert await parts.store.get(b"key") == b"value"

    uvloop.run(scenario())


def test_recent_readers_are_flushed_on_shutdown() -> None:
    """Closing the store does not wait for the next regular flush."""
    received: list[Command] = []

    async def scenario() -> None:
        async with build_parts(reply_with(look_up({}), received)) as parts:
            for _ in range(2):
                await parts.store.refresh()
            parts.recent_readers.record(b"u", 1_764_000_000)

    uvloop.run(scenario())
    assert [b"ZADD", b"recs:recent-readers", b"GT", b"1764000000", b"u"] in received


def test_it_is_not_ready_before_the_popular_list_was_read() -> None:
    """Once the reader reports ready, every user gets at least the popular list."""
    ready: list[bool] = []
    look_up_value = look_up({b"recs:current": b"g", b"popular:g": pack_items("a")})

    async def scenario() -> None:
        def get_reply(command: Command) -> bytes:
            if command[1] == b"popular:g":
                ready.append(parts.store.has_current)
            return look_up_value(command)

        async with build_parts(reply_with(get_reply)) as parts:
            await parts.store.refresh()
            assert parts.store.has_current

    uvloop.run(scenario())
    assert ready == [False]
