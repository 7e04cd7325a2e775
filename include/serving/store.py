"""Redis as the reader sees it: reads that fail at once while it is away, and a keeper that brings it back."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from include.domain.recommendation_list import CURRENT_KEY, popular_key
from include.serving.address import Address
from include.serving.asked import Asked
from include.serving.breaker import Breaker
from include.serving.memory import Memory
from include.serving.metrics import Metrics
from include.serving.resp import Connection, StoreAwayError, answer, connect

#: The longest that a request waits for Redis.
READ_DEADLINE_S = 0.08
#: How often the generation and the popular list are read again: also the probe that finds a hung server.
REFRESH_S = 1.0
FLUSH_S = 5.0

_LOG = logging.getLogger(__name__)


class Store:
    """One connection, open for reads while the breaker is closed."""

    def __init__(self, address: Address, memory: Memory, asked: Asked, metrics: Metrics) -> None:
        self.breaker = Breaker(time.monotonic)
        #: Why Redis is not asked now, or was not last time.
        self.reason = "it was not reached yet"
        #: Whether ``recs:current`` named a generation when it was read last.
        self.has_current = False
        self._address = address
        self._memory = memory
        self._asked = asked
        self._metrics = metrics
        self._connection: Connection | None = None
        self._lost = asyncio.Event()
        self._flush_due = 0.0

    def get(self, key: bytes) -> asyncio.Future[Any]:
        """``GET key``. Raises ``StoreAwayError`` at once while the breaker is open, or later from the future."""
        if self._connection is None:
            raise StoreAwayError(self.reason)
        return self._connection.get(key)

    async def keep(self) -> None:
        """For ever: read the generation and the popular list again, tell who asked, connect anew when need be."""
        while True:
            await self.refresh()
            self._lost.clear()
            if self.breaker.is_open:
                await asyncio.sleep(self.breaker.wait_s())
                continue
            try:
                async with asyncio.timeout(REFRESH_S):
                    await self._lost.wait()
            except TimeoutError:
                continue

    async def refresh(self) -> None:
        """Once: connect if need be, read, and let reads through if all of it was answered in time."""
        connection = self._connection
        if connection is None:
            await self._open()
            return
        try:
            await self._read(connection)
        except StoreAwayError as exc:
            connection.drop(str(exc))
        else:
            await self._flush_if_due(connection)

    async def _open(self) -> None:
        """Connect, and let reads through once the first ones were answered in time."""
        connection = None
        try:
            connection = await connect(self._address, READ_DEADLINE_S)
            await self._read(connection)
            if connection.lost:  # between the last reply and now, when nobody listened for it yet
                raise StoreAwayError("the connection ended")
        except StoreAwayError as exc:
            self._failed(str(exc))
            if connection is not None:
                connection.drop(str(exc))
            return
        connection.on_lost = self._on_lost
        self._connection = connection
        self.breaker.succeeded()
        _LOG.info("Redis at %s answers", self._address)

    async def close(self) -> None:
        """Tell who asked, as far as Redis takes it, and disconnect."""
        connection = self._connection
        if connection is not None:
            self._flush_due = 0.0
            await self._flush_if_due(connection)
            connection.drop("the reader ends")

    async def _read(self, connection: Connection) -> None:
        current = await answer(connection.get(CURRENT_KEY))
        if current is None:
            self.has_current = False
            return
        generation = current.decode(errors="replace")
        if generation != self._memory.generation:
            self._memory.serve(generation)
        popular = await answer(connection.get(popular_key(generation)))
        if popular is not None and not self._memory.popular.take(popular):
            self._metrics.redis_errors["unreadable"] += 1
        # last, so that who is told "ready" finds the popular list there
        self.has_current = True

    async def _flush_if_due(self, connection: Connection) -> None:
        now = time.monotonic()
        if now < self._flush_due:
            return
        self._flush_due = now + FLUSH_S
        try:
            await self._asked.flush(connection, int(time.time()))
        except StoreAwayError as exc:
            # A reader that may only read still serves; a lost connection is noticed where it is lost.
            self._metrics.redis_errors["reply"] += 1
            _LOG.warning("who asked could not be told to Redis: %s", exc)

    def _on_lost(self, reason: str) -> None:
        self._connection = None
        self._failed(reason)
        self._lost.set()

    def _failed(self, reason: str) -> None:
        self._metrics.redis_errors["away"] += 1
        if not self.breaker.is_open:
            _LOG.warning("Redis at %s is away, answering from memory: %s", self._address, reason)
        self.reason = reason
        self.breaker.failed()
