"""expire: delete events by the age of their newest message from every store, the warehouse last. May run twice.

The warehouse knows the age, so what a killed run leaves behind is found again. No batch is open meanwhile: one that was
staged before the cut could find an event in a store, leave it alone, and miss it there afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from include.errors import TransientError
from include.ports import Expiry, Sink

#: How long claims wait at most, without the time that open batches need to end.
PAUSE_S = 30.0
_POLL_S = 0.5


@dataclass(frozen=True)
class ExpirePorts:
    """``sinks``: every store but the warehouse. ``wait_s`` bounds the wait for open batches."""

    expiry: Expiry
    sinks: Iterable[Sink]
    wait_s: float = 120.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def expire(days: int, ports: ExpirePorts) -> int:
    """Delete, for about PAUSE_S, events published more than ``days`` days ago. Returns their number, 0 at the end.

    Raises ``TransientError`` if open batches are not committed in time; then nothing was deleted.
    """
    while ports.expiry.date_undated():
        pass
    with ports.expiry.pause_claims():
        _wait_for_running(ports)
        ports.expiry.raise_cut(days)
        deleted, end = 0, ports.clock() + PAUSE_S
        while (rows := ports.expiry.read_slice()).num_rows:
            for sink in ports.sinks:
                sink.delete(rows)
            deleted += ports.expiry.delete(rows)
            if ports.clock() >= end:
                break
    return deleted


def _wait_for_running(ports: ExpirePorts) -> None:
    deadline = ports.clock() + ports.wait_s
    while running := ports.expiry.count_running():
        if ports.clock() >= deadline:
            raise TransientError(
                f"{running} batches were not committed within {ports.wait_s:.0f} s, so no events were deleted: run "
                "maintain again when every shard works"
            )
        ports.sleep(_POLL_S)
