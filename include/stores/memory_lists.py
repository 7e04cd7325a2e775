"""The Lists port in memory, with the behaviour of Redis: for tests and dry runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from include.domain.recommendation_list import VERSION_BYTES, list_key, popular_key
from include.errors import PermanentError


class MemoryLists:
    """``clock`` returns seconds since 1970. ``requests`` maps users to the second of their last request, as a reader
    records it.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.current: str | None = None
        self.requests: dict[str, int] = {}
        self._clock = clock
        self._values: dict[bytes, tuple[bytes, float]] = {}

    def publish(self, generation: str, lists: Mapping[str, bytes], ttl_s: Mapping[str, int]) -> int:
        """Write each user's list with its TTL. Returns the number written; older lists are skipped."""
        for packed in lists.values():
            _check_length(packed)
        return sum(self._set_if_newer(list_key(generation, user), lists[user], ttl_s[user]) for user in lists)

    def publish_popular(self, generation: str, packed: bytes, ttl_s: int) -> None:
        """Write the list for users without one of their own, unless a newer one is stored."""
        _check_length(packed)
        self._set_if_newer(popular_key(generation), packed, ttl_s)

    def set_current_generation(self, generation: str) -> None:
        """Make the reader serve this generation from now on."""
        self.current = generation

    def find_expiring(self, generation: str, users: Sequence[str], within_s: int) -> Sequence[str]:
        """Those of ``users`` whose list is missing or expires within that time, in the same order."""
        limit = self._clock() + within_s
        return [user for user in users if self._expires_at(list_key(generation, user)) <= limit]

    def read_recent_readers(self, since_s: int) -> Sequence[str]:
        """Users whose list was requested at or after that time (seconds since 1970)."""
        return [user for user, at in self.requests.items() if at >= since_s]

    def forget_readers(self, users: Sequence[str]) -> None:
        """Remove these users from the recent readers."""
        for user in users:
            self.requests.pop(user, None)

    def get(self, key: bytes) -> bytes | None:
        """The value of a key of ``include.domain.recommendation_list``, unless it has expired."""
        packed, expires_at = self._values.get(key, (None, 0.0))
        return packed if expires_at > self._clock() else None

    def close(self) -> None:
        """Nothing to close."""

    def _expires_at(self, key: bytes) -> float:
        return self._values[key][1] if self.get(key) is not None else 0.0

    def _set_if_newer(self, key: bytes, packed: bytes, ttl_s: int) -> int:
        stored = self.get(key)
        if stored is not None and stored[:VERSION_BYTES] > packed[:VERSION_BYTES]:
            return 0
        self._values[key] = (packed, self._clock() + ttl_s)
        return 1


def _check_length(packed: bytes) -> None:
    if len(packed) < VERSION_BYTES:
        raise PermanentError("a packed list begins with eight bytes of version; this one is shorter")
