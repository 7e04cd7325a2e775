"""The input of the benchmarks: the retail events if the file exists next to the project, otherwise a simulated shop."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice

from demo.shop import Shop
from include.domain.event import Event, InvalidEventError, decode
from stack.config import PROJECT

RETAIL = PROJECT.parent / "shared" / "data" / "online-retail" / "events.jsonl.gz"
#: The time of the shop's newest event. It is fixed so that every run has the same input.
_SHOP_TIME = datetime(2026, 11, 1, tzinfo=UTC)


def label() -> str:
    """Returns the name of the input."""
    return "online-retail" if RETAIL.exists() else "the simulated shop"


def lines(count: int) -> list[bytes]:
    """Returns the first ``count`` lines."""
    if RETAIL.exists():
        with gzip.open(RETAIL) as file:
            return [line.rstrip(b"\n") for line in islice(file, count)]
    users = max(1, count // 10)
    return list(Shop(users=users, events=count, distinct_texts=min(20_000, count)).lines(_SHOP_TIME))


def events(lines: Iterable[bytes]) -> Iterator[Event]:
    """Decode the lines, skipping those that are not valid events."""
    for line in lines:
        try:
            yield decode(line)
        except InvalidEventError:
            continue


def texts(count: int) -> list[str]:
    """Returns the first ``count`` distinct texts, or fewer if the input has fewer."""
    seen: dict[str, None] = {}
    for event in events(lines(500_000 if RETAIL.exists() else 20 * count)):
        if event.text is not None:
            seen.setdefault(event.text)
        if len(seen) == count:
            break
    return list(seen)
