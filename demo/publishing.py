"""Publishing lines so that a killed run can resume: line k is always the same message in the same shard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from demo.routing import Router
from include.errors import PermanentError

#: Report progress once per this many lines.
_PROGRESS_INTERVAL = 10_000


class Publisher(Protocol):
    """A Kafka producer. It preserves the order within a partition and never loses a message silently."""

    def send(self, partition: int, key: bytes | None, value: bytes, timestamp_ms: int | None = None) -> None:
        """Queue one message; may block while the buffer is full."""
        ...

    def flush(self) -> None:
        """Wait until every message is acknowledged; raises if one was lost."""
        ...


class ForeignMessagesError(PermanentError):
    """The topic contains messages that are not from this input."""


def publish_lines(
    lines: Iterable[bytes],
    router: Router,
    publisher: Publisher,
    existing: Sequence[int],
    timestamp_ms: int | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[int]:
    """Publish the lines that are not in the topic yet. Returns the number of messages that ``lines`` has per shard.

    ``existing`` is the number of messages already in each partition. They must be the first lines routed to that
    partition, so that many lines per shard are skipped. Every message gets ``timestamp_ms``, or the current time if
    that is None. Every line is a message, even a blank one; ``on_progress`` gets the number of lines processed.
    """
    counts = [0] * len(existing)
    number = -1
    for number, line in enumerate(lines):
        shard, key = router.route(line, number)
        counts[shard] += 1
        if counts[shard] > existing[shard]:
            publisher.send(shard, key, line, timestamp_ms)
        if number % _PROGRESS_INTERVAL == 0:
            on_progress(number)
    publisher.flush()
    on_progress(number + 1)
    for shard, (expected, actual) in enumerate(zip(counts, existing, strict=True)):
        if actual > expected:
            raise ForeignMessagesError(
                f"partition {shard} has {actual:,} messages, but this input has only {expected:,} for it: "
                "something else has published to this topic. Start over with --fresh"
            )
    return counts
