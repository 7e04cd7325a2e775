"""What the benchmarks work on: real events where they are beside the project, else those of a made-up shop."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice

from demo.shop import Shop
from include.domain.event import Event, InvalidEventError, decode
from stack.config import PROJECT

RETAIL = PROJECT.parent / "shared" / "data" / "online-retail" / "events.jsonl.gz"
#: The shop's newest event: any moment will do, and a fixed one makes every run alike.
_MOMENT = datetime(2026, 11, 1, tzinfo=UTC)


def label() -> str:
    """Which events are used here."""
    return "online-retail" if RETAIL.exists() else "the made-up shop"


def lines(count: int) -> list[bytes]:
    """The first ``count`` lines."""
    if RETAIL.exists():
        with gzip.open(RETAIL) as file:
            return [line.rstrip(b"\n") for line in islice(file, count)]
    users = max(1, count // 10)
    return list(Shop(users=users, events=count, distinct_texts=min(20_000, count)).lines(_MOMENT))


def events(found: Iterable[bytes]) -> Iterator[Event]:
    """Those lines that are events."""
    for line in found:
        try:
            yield decode(line)
        except InvalidEventError:
            continue


def texts(count: int) -> list[str]:
    """The first ``count`` distinct texts, or all there are in half a million lines."""
    seen: dict[str, None] = {}
    for event in events(lines(500_000 if RETAIL.exists() else 20 * count)):
        if event.text is not None:
            seen.setdefault(event.text)
        if len(seen) == count:
            break
    return list(seen)
