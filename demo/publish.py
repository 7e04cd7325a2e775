"""Publishing lines so that it can go on after a kill: line k always is the same message of the same shard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from demo.routing import Router
from include.errors import PermanentError

#: How many lines lie between two reports of progress.
_REPORT_EVERY = 10_000


class Publisher(Protocol):
    """The producer: it keeps the order within a partition and loses nothing without an error."""

    def send(self, partition: int, key: bytes | None, value: bytes, timestamp_ms: int | None = None) -> None:
        """Hand over one message; may wait while the buffer is full."""
        ...

    def flush(self) -> None:
        """Return only when every message is acknowledged; raises when one was lost."""
        ...


class ForeignMessagesError(PermanentError):
    """The topic holds messages that are not from this input."""


def publish(
    lines: Iterable[bytes],
    router: Router,
    publisher: Publisher,
    there: Sequence[int],
    timestamp_ms: int | None = None,
    note: Callable[[int], None] = lambda _: None,
) -> list[int]:
    """Publish what is not there yet; how many messages of ``lines`` each shard has in the end.

    ``there`` says how many messages each partition holds: they must be the first ones of these lines, so that many
    of each shard are left out. Every message gets ``timestamp_ms``, or without it the time at which it is sent.
    Blank or not, every line is a message; ``note`` gets the number of lines done.
    """
    counts = [0] * len(there)
    number = -1
    for number, line in enumerate(lines):
        shard, key = router.route(line, number)
        counts[shard] += 1
        if counts[shard] > there[shard]:
            publisher.send(shard, key, line, timestamp_ms)
        if number % _REPORT_EVERY == 0:
            note(number)
    publisher.flush()
    note(number + 1)
    for shard, (known, held) in enumerate(zip(counts, there, strict=True)):
        if held > known:
            raise ForeignMessagesError(
                f"partition {shard} holds {held:,} messages and this input has {known:,} for it: "
                "something else published too. Begin anew with --fresh"
            )
    return counts
