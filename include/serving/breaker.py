"""The circuit breaker: when to try a store again that has failed."""

from __future__ import annotations

import random
from collections.abc import Callable


class Breaker:
    """Open from the first failure until a probe succeeds. One probe at a time, ever further apart.

    The first probe is due at once: a connection that was only closed is back within a millisecond.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        first_s: float = 0.1,
        most_s: float = 1.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._first_s = first_s
        self._most_s = most_s
        self._jitter = jitter
        self._pause_s = 0.0
        self._due = 0.0
        self.is_open = True

    def failed(self) -> None:
        """A call or a probe failed."""
        if not self.is_open:
            self._pause_s = 0.0
        self.is_open = True
        self._due = self._clock() + self._pause_s * (0.75 + self._jitter() / 2)
        self._pause_s = min(max(self._first_s, 2 * self._pause_s), self._most_s)

    def succeeded(self) -> None:
        """A probe was answered: calls may go through again."""
        self.is_open = False

    def wait_s(self) -> float:
        """How long until the next probe is due."""
        return max(0.0, self._due - self._clock()) if self.is_open else 0.0
