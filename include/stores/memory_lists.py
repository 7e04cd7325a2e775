"""The Lists port in memory: for tests and dry runs, with the promises that Redis keeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from include.domain.recommendation_list import VERSION_BYTES, list_key, popular_key
from include.errors import PermanentError


class MemoryLists:
    """``clock`` gives seconds since 1970. ``asked`` is what a reader notes: the second of each user's last request."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.current: str | None = None
        self.asked: dict[str, int] = {}
        self._clock = clock
        self._kept: dict[bytes, tuple[bytes, float]] = {}

    def publish(self, generation: str, lists: Mapping[str, bytes], ttl_s: Mapping[str, int]) -> int:
        """Write each user's list with its time to live; how many were written, the others being older."""
        for packed in lists.values():
            _check(packed)
        return sum(self._keep_newest(list_key(generation, user), lists[user], ttl_s[user]) for user in lists)

    def publish_popular(self, generation: str, packed: bytes, ttl_s: int) -> None:
        """Write the list for users without one, unless a newer is there."""
        _check(packed)
        self._keep_newest(popular_key(generation), packed, ttl_s)

    def make_current(self, generation: str) -> None:
        """Let the reader serve this generation from now on."""
        self.current = generation

    def expiring(self, generation: str, users: Sequence[str], within_s: int) -> Sequence[str]:
        """Those of ``users`` whose list is absent or ends within that time, in their order."""
        limit = self._clock() + within_s
        return [user for user in users if self._end(list_key(generation, user)) <= limit]

    def asked_since(self, since_s: int) -> Sequence[str]:
        """Users whose list the reader was asked for at or after that time (seconds since 1970)."""
        return [user for user, at in self.asked.items() if at >= since_s]

    def get(self, key: bytes) -> bytes | None:
        """What is kept under a key of ``include.domain.recommendation_list``, unless it has ended."""
        packed, end = self._kept.get(key, (None, 0.0))
        return packed if end > self._clock() else None

    def close(self) -> None:
        """Nothing to close."""

    def _end(self, key: bytes) -> float:
        return self._kept[key][1] if self.get(key) is not None else 0.0

    def _keep_newest(self, key: bytes, packed: bytes, ttl_s: int) -> int:
        stored = self.get(key)
        if stored is not None and stored[:VERSION_BYTES] > packed[:VERSION_BYTES]:
            return 0
        self._kept[key] = (packed, self._clock() + ttl_s)
        return 1


def _check(packed: bytes) -> None:
    if len(packed) < VERSION_BYTES:
        raise PermanentError("a packed list begins with eight bytes of version; this one is shorter")
