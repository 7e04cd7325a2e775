"""A circuit breaker: decides when to retry a store that has failed."""

from __future__ import annotations

import random
from collections.abc import Callable


class CircuitBreaker:
    """Open from the first failure until a probe succeeds. Probes back off exponentially.

    The first probe is due immediately: a connection that was merely closed can be restored within a millisecond.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        initial_pause_s: float = 0.1,
        max_pause_s: float = 1.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._initial_pause_s = initial_pause_s
        self._max_pause_s = max_pause_s
        self._jitter = jitter
        self._pause_s = 0.0
        self._next_probe_at = 0.0
        self.is_open = True

    def record_failure(self) -> None:
        """A call or a probe failed."""
        if not self.is_open:
            self._pause_s = 0.0
        self.is_open = True
        self._next_probe_at = self._clock() + self._pause_s * (0.75 + self._jitter() / 2)
        self._pause_s = min(max(self._initial_pause_s, 2 * self._pause_s), self._max_pause_s)

    def record_success(self) -> None:
        """A probe succeeded: calls may go through again."""
        self.is_open = False

    def seconds_until_probe(self) -> float:
        """Returns the time until the next probe is due."""
        return max(0.0, self._next_probe_at - self._clock()) if self.is_open else 0.0
