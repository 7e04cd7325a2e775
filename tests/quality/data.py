"""The events of a file, as arrays, and the split by which rankings are judged."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from include.domain.event import Event, InvalidEventError, decode
from include.errors import ConfigurationError
from include.ranking.dataset import build_dataset
from include.ranking.interactions import Interactions, Split, split_at_random, split_by_time

#: Users with fewer train items are judged in a slice of their own.
MIN_TRAIN_ITEMS = 5


@dataclass(frozen=True)
class EventFile:
    """The engagements of the valid events of a file. ``texts``: the newest text of each item, None without one."""

    users: Sequence[str]
    items: Sequence[str]
    texts: Sequence[str | None]
    events: Interactions


def read_events(path: Path) -> EventFile:
    """Messages that are not valid events, and events without an item, are left out.

    Of two revisions of one event the winner counts.
    """
    winners: dict[str, Event] = {}
    for event in _decode(path):
        other = winners.get(event.event_id)
        if event.item_id is not None and (other is None or event.precedence > other.precedence):
            winners[event.event_id] = event
    rows = [(event.user_id, event.item_id, event.kind, event.occurred_at) for event in winners.values()]
    columns = zip(("user_id", "item_id", "kind", "occurred_at"), zip(*rows, strict=True), strict=True)
    data = build_dataset([pa.table(dict(columns))])
    titles = _find_titles(winners.values())
    return EventFile(data.users, data.items, [titles.get(item) for item in data.items], data.events)


def _find_titles(events: Iterable[Event]) -> dict[str, str]:
    newest: dict[str, tuple[int, str]] = {}
    for event in events:
        if event.item_id is not None and event.text is not None and event.kind != "message":
            newest[event.item_id] = max(newest.get(event.item_id, (-1, "")), (event.occurred_at, event.text))
    return {item: text for item, (_, text) in newest.items()}


def _decode(path: Path) -> Iterator[Event]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as lines:
        for line in lines:
            try:
                yield decode(line.rstrip(b"\n"))
            except InvalidEventError:
                continue


def split(events: Interactions, cut: str) -> Split:
    """``cut``: a date, ``leave-last-20%`` or ``random-20%:seed``. Raises ``ConfigurationError`` for anything else."""
    name, _, seed = cut.partition(":")
    try:
        if name.startswith("random-"):
            return split_at_random(events, _share(name), int(seed or 0))
        if name.startswith("leave-last-"):
            return split_by_time(events, int(np.quantile(events.at, 1 - _share(name))))
        return split_by_time(events, int(datetime.fromisoformat(name).replace(tzinfo=UTC).timestamp() * 1000))
    except ValueError:
        raise ConfigurationError(
            f"CUT={cut}: use a date (2011-10-01), leave-last-20% or random-20%:seed, to say which events are predicted"
        ) from None


def _share(name: str) -> float:
    share = float(name.rpartition("-")[2].rstrip("%")) / 100
    if not 0 < share < 1:
        raise ValueError(name)
    return share


def judged_users(split: Split, *, short: bool = False) -> np.ndarray:
    """Users with a test item that was seen in train and at least MIN_TRAIN_ITEMS train items; with ``short``, fewer."""
    items = np.diff(split.train.matrix().indptr)
    known = np.bincount(split.train.item, minlength=split.train.items) > 0
    hits = split.test.astype(np.int64) @ known.astype(np.int64)
    enough = (items > 0) & (items < MIN_TRAIN_ITEMS) if short else items >= MIN_TRAIN_ITEMS
    return np.flatnonzero(enough & (hits > 0))
