"""The reader's access to Redis: reads fail immediately while it is down, and a refresh loop reconnects."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from include.domain.recommendation_list import CURRENT_KEY, popular_key
from include.serving.address import RedisAddress
from include.serving.breaker import CircuitBreaker
from include.serving.cache import ListCache
from include.serving.metrics import Metrics
from include.serving.recent_readers import RecentReaders
from include.serving.resp import Connection, StoreUnavailableError, await_reply, connect

#: The longest a request waits for Redis.
READ_DEADLINE_S = 0.08
#: How often the generation and the popular list are refreshed, which also detects a server that hangs.
REFRESH_S = 1.0
FLUSH_S = 5.0

_LOG = logging.getLogger(__name__)


class Store:
    """A single connection, open for reads while the circuit breaker is closed."""

    def __init__(
        self, address: RedisAddress, cache: ListCache, recent_readers: RecentReaders, metrics: Metrics
    ) -> None:
        self.breaker = CircuitBreaker(time.monotonic)
        #: Why Redis is unavailable, or was the last time.
        self.reason = "not connected yet"
        #: Whether ``recs:current`` named a generation at the last refresh.
        self.has_current = False
        self._address = address
        self._cache = cache
        self._recent_readers = recent_readers
        self._metrics = metrics
        self._connection: Connection | None = None
        self._lost = asyncio.Event()
        self._next_flush_at = 0.0
        metrics.set_breaker_open(True)

    def get(self, key: bytes) -> asyncio.Future[Any]:
        """``GET key``. Fails with ``StoreUnavailableError``: immediately while the breaker is open."""
        if self._connection is None:
            raise StoreUnavailableError(self.reason)
        return self._connection.get(key)

    async def run_refresh_loop(self) -> None:
        """Refresh the generation and the popular list, flush the recent readers and reconnect, until cancelled."""
        while True:
            await self.refresh()
            self._lost.clear()
            if self.breaker.is_open:
                await asyncio.sleep(self.breaker.seconds_until_probe())
                continue
            try:
                async with asyncio.timeout(REFRESH_S):
                    await self._lost.wait()
            except TimeoutError:
                continue

    async def refresh(self) -> None:
        """Refresh once, connecting first if necessary."""
        connection = self._connection
        if connection is None:
            await self._connect()
            return
        try:
            await self._read_shared(connection)
        except StoreUnavailableError as exc:
            connection.drop(str(exc))
        else:
            await self._flush_if_due(connection)

    async def _connect(self) -> None:
        """Connect, and close the breaker once the first reads were answered in time."""
        connection = None
        try:
            connection = await connect(self._address, READ_DEADLINE_S)
            await self._read_shared(connection)
            if connection.lost:  # since the last reply, while on_lost was not set yet
                raise StoreUnavailableError("the connection was closed")
        except StoreUnavailableError as exc:
            self._record_failure(str(exc))
            if connection is not None:
                connection.drop(str(exc))
            return
        connection.on_lost = self._handle_lost_connection
        self._connection = connection
        self.breaker.record_success()
        self._metrics.set_breaker_open(False)
        _LOG.info("connected to Redis at %s", self._address)

    async def close(self) -> None:
        """Flush the recent readers if Redis accepts them, and disconnect."""
        connection = self._connection
        if connection is not None:
            self._next_flush_at = 0.0
            await self._flush_if_due(connection)
            connection.drop("the reader is shutting down")

    async def _read_shared(self, connection: Connection) -> None:
        """Read what all users share: the current generation and its popular list."""
        current = await await_reply(connection.get(CURRENT_KEY))
        if current is None:
            self.has_current = False
            return
        generation = current.decode(errors="replace")
        if generation != self._cache.generation:
            self._cache.set_generation(generation)
            self._metrics.set_generation_known(True)
        popular = await await_reply(connection.get(popular_key(generation)))
        if popular is not None and not self._cache.popular.replace(popular):
            self._metrics.count_redis_error("unreadable")
        # Set last, so that a reader that reports ready already has the popular list.
        self.has_current = True

    async def _flush_if_due(self, connection: Connection) -> None:
        now = time.monotonic()
        if now < self._next_flush_at:
            return
        self._next_flush_at = now + FLUSH_S
        try:
            await self._recent_readers.flush(connection, int(time.time()))
        except StoreUnavailableError as exc:
            # With read-only access the reader can still serve; on_lost handles a lost connection.
            self._metrics.count_redis_error("reply")
            _LOG.warning("could not write the recent readers to Redis: %s", exc)

    def _handle_lost_connection(self, reason: str) -> None:
        self._connection = None
        self._record_failure(reason)
        self._lost.set()

    def _record_failure(self, reason: str) -> None:
        self._metrics.count_redis_error("away")
        if not self.breaker.is_open or reason != self.reason:  # also the first failure after the start
            _LOG.warning("Redis at %s is unavailable, serving from memory: %s", self._address, reason)
        self.reason = reason
        self.breaker.record_failure()
        self._metrics.set_breaker_open(True)
