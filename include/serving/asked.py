"""Who asked: noted in memory at once, told to Redis every few seconds, for the precompute to see who is active."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import batched, islice

from include.domain.recommendation_list import ASKED_KEY
from include.serving.metrics import Metrics
from include.serving.resp import Connection, answer

#: Users noted between two flushes; what asks beyond them is not noted.
MOST_NOTED = 20_000
#: Redis forgets who has not asked for this long; the precompute looks back half an hour.
KEPT_S = 2 * 3600
#: The most users that Redis keeps, the latest: some 100 MB.
MOST_KEPT = 1_000_000
_MEMBERS_PER_COMMAND = 1_000


class Asked:
    """Notes of (user, second of the last request), bounded."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._noted: dict[bytes, int] = {}

    def note(self, user: bytes, now_s: int) -> None:
        """The user asked now."""
        if len(self._noted) < MOST_NOTED or user in self._noted:
            self._noted[user] = now_s
        else:
            self._metrics.notes_dropped += 1

    async def flush(self, connection: Connection, now_s: int) -> None:
        """Tell Redis; what could not be told is kept for the next time. Raises ``StoreAwayError``."""
        if not self._noted:
            return
        noted, self._noted = self._noted, {}
        try:
            for command in _commands(noted, now_s):
                await answer(connection.call(*command))
        except BaseException:
            self._keep(noted | self._noted)
            raise

    def _keep(self, notes: dict[bytes, int]) -> None:
        self._noted = dict(islice(notes.items(), MOST_NOTED))
        self._metrics.notes_dropped += len(notes) - len(self._noted)


def _commands(noted: dict[bytes, int], now_s: int) -> Iterator[tuple[bytes, ...]]:
    for chunk in batched(noted.items(), _MEMBERS_PER_COMMAND):
        pairs = (word for user, at in chunk for word in (b"%d" % at, user))
        # GT: of two readers the one that flushes last may have the older note
        yield (b"ZADD", ASKED_KEY, b"GT", *pairs)
    yield (b"ZREMRANGEBYSCORE", ASKED_KEY, b"-inf", b"(%d" % (now_s - KEPT_S))
    yield (b"ZREMRANGEBYRANK", ASKED_KEY, b"0", b"%d" % (-MOST_KEPT - 1))
