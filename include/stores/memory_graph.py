"""The Graph port in memory, on the rows of a MemorySink."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from include.domain.ranking import Engagements, kind_weight


class MemorySimilarItems:
    """``ports.SimilarItems``. ``rows``: those of the graph, whose items have a node."""

    def __init__(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        self._rows = rows
        self._similar: dict[str, list[tuple[str, float]]] = {}

    def replace(self, version: str, rows: Sequence[tuple[str, str, float]]) -> int:
        known = {row["item_id"] for row in self._rows.values()}
        stored = [row for row in rows if row[0] in known and row[1] in known]
        self._similar = {}
        for item, other, weight in stored:
            self._similar.setdefault(item, []).append((other, weight))
        return len(stored)

    def find(self, item: str, limit: int) -> Sequence[tuple[str, float]]:
        return sorted(self._similar.get(item, []), key=lambda row: (-row[1], row[0]))[:limit]

    def close(self) -> None:
        """Nothing to close."""


class MemoryGraph:
    """Reads ``rows`` (events with an item, by event id) on each call: share them with the sink that writes them."""

    def __init__(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        self._rows = rows

    def read_engagements(self, users: Sequence[str], limit: int) -> Engagements:
        """The latest ``limit`` items of each user, ties by id. Users without an engagement are left out."""
        by_user = {user: latest for user in users if (latest := self._latest(user, limit))}
        flat = [entry for latest in by_user.values() for entry in latest]
        items = {item: index for index, item in enumerate({item for item, _, _ in flat})}
        lengths = [len(latest) for latest in by_user.values()]
        return Engagements(
            users=list(by_user),
            items=list(items),
            user_index=np.repeat(np.arange(len(by_user), dtype=np.int32), lengths),
            item_index=np.asarray([items[item] for item, _, _ in flat], dtype=np.int32),
            at=np.asarray([at for _, at, _ in flat], dtype=np.int64),
            weight=np.asarray([weight for _, _, weight in flat], dtype=np.float64),
        )

    def close(self) -> None:
        """Nothing to close."""

    def _latest(self, user: str, limit: int) -> list[tuple[str, int, float]]:
        last: dict[str, tuple[int, float]] = {}
        for row in self._rows.values():
            if row["user_id"] == user:
                at, weight = last.get(row["item_id"], (row["occurred_at"], 0.0))
                last[row["item_id"]] = max(at, row["occurred_at"]), max(weight, kind_weight(row["kind"]))
        ordered = sorted(last.items(), key=lambda entry: (-entry[1][0], entry[0]))
        return [(item, at, weight) for item, (at, weight) in ordered[:limit]]
