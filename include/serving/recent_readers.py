"""Recent readers: users who requested their list, buffered in memory and written to Redis every few seconds.

The precompute reads them to find out which users are active. Anyone can ask for any user, so what is stored here and in
Redis is bounded, and the precompute removes users that the warehouse does not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import batched, islice

from include.domain.recommendation_list import RECENT_READERS_KEY
from include.serving.metrics import Metrics
from include.serving.resp import Connection, await_reply

#: The most users buffered between two flushes; users beyond that are not recorded.
MAX_BUFFERED = 20_000
#: A user with a longer id, in UTF-8, is not recorded: ids of 512 bytes would take four times the memory.
MAX_ID_BYTES = 128
#: How long Redis remembers a user's last request; the precompute looks back half an hour.
RETENTION_S = 2 * 3600
#: The most users stored in Redis, the latest ones: about 100 MB, with the longest ids 250 MB.
MAX_STORED = 1_000_000
_MEMBERS_PER_COMMAND = 1_000


class RecentReaders:
    """A bounded buffer of users and the time of their last request, in seconds since 1970."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._buffer: dict[bytes, int] = {}

    def record(self, user: bytes, now_s: int) -> None:
        """Record a request by this user."""
        if user in self._buffer or (len(self._buffer) < MAX_BUFFERED and len(user) <= MAX_ID_BYTES):
            self._buffer[user] = now_s
        else:
            self._metrics.count_dropped_readers(1)

    async def flush(self, connection: Connection, now_s: int) -> None:
        """Write the buffer to Redis. On ``StoreUnavailableError`` the users stay buffered for the next flush."""
        if not self._buffer:
            return
        flushed, self._buffer = self._buffer, {}
        try:
            for command in _build_commands(flushed, now_s):
                await await_reply(connection.execute(*command))
        except BaseException:
            self._restore(flushed | self._buffer)
            raise

    def _restore(self, readers: dict[bytes, int]) -> None:
        self._buffer = dict(islice(readers.items(), MAX_BUFFERED))
        self._metrics.count_dropped_readers(len(readers) - len(self._buffer))


def _build_commands(readers: dict[bytes, int], now_s: int) -> Iterator[tuple[bytes, ...]]:
    for chunk in batched(readers.items(), _MEMBERS_PER_COMMAND):
        pairs = (argument for user, at in chunk for argument in (b"%d" % at, user))
        # GT: with several readers, the one that flushes last may have the older time.
        yield (b"ZADD", RECENT_READERS_KEY, b"GT", *pairs)
    yield (b"ZREMRANGEBYSCORE", RECENT_READERS_KEY, b"-inf", b"(%d" % (now_s - RETENTION_S))
    yield (b"ZREMRANGEBYRANK", RECENT_READERS_KEY, b"0", b"%d" % (-MAX_STORED - 1))
