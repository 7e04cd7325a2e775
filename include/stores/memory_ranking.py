"""What the learned ranking reads of the events, and the trained models, in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa

from include.domain.ranking import DAY_MS, MAX_HALF_LIVES, kind_weight
from include.domain.ranking_model import RankingModel, unknown_version
from include.stores.memory_tables import MemoryTables


class MemoryEngagementLog:
    """``ports.EngagementLog``."""

    def __init__(self, tables: MemoryTables) -> None:
        self._tables = tables

    def count(self) -> int:
        return sum(row["item_id"] is not None for row in self._tables.events.values())

    def scan(self) -> Iterator[pa.Table]:
        names = ("user_id", "item_id", "kind", "occurred_at")
        rows = [[row[name] for name in names] for row in self._tables.events.values() if row["item_id"] is not None]
        if rows:
            yield pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))

    def summarise_items(self, as_of_ms: int, half_lives: Sequence[float | None]) -> pa.Table:
        first: dict[tuple[str, str], int] = {}
        weights: dict[tuple[str, str], float] = defaultdict(float)
        for row in self._tables.events.values():
            pair, weight = (row["item_id"], row["user_id"]), kind_weight(row["kind"])
            if row["item_id"] is not None and weight > 0:
                first[pair] = min(first.get(pair, row["occurred_at"]), row["occurred_at"])
                weights[pair] = max(weights[pair], weight)
        scores: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(half_lives))
        first_of_item: dict[str, int] = {}
        for pair, at in first.items():
            item, days = pair[0], max(0, as_of_ms - at) / DAY_MS
            first_of_item[item] = min(first_of_item.get(item, at), at)
            for index, half_life in enumerate(half_lives):
                age = 0 if half_life is None else min(MAX_HALF_LIVES, days / half_life)
                scores[item][index] += weights[pair] * 0.5**age
        items = sorted(scores)
        return pa.table(
            {
                "item_id": pa.array(items, type=pa.string()),
                "first_at": pa.array([first_of_item[item] for item in items], type=pa.int64()),
                "scores": pa.array([scores[item] for item in items], type=pa.list_(pa.float64())),
            }
        )


class MemoryRankingModels:
    """``ports.RankingModels``."""

    def __init__(self, tables: MemoryTables) -> None:
        self._models = tables.models

    def add(self, model: RankingModel) -> None:
        stored = self._models.setdefault(model.version, replace(model, promoted_at=None))
        self._models[model.version] = replace(stored, trained_at=model.trained_at)

    def promote(self, version: str, now_ms: int) -> None:
        if version not in self._models:
            raise unknown_version(version)
        last = max((model.promoted_at or 0 for model in self._models.values()), default=0)
        self._models[version] = replace(self._models[version], promoted_at=max(now_ms, last + 1))

    def read_current(self) -> RankingModel | None:
        promoted = [model for model in self._models.values() if model.promoted_at is not None]
        return max(promoted, key=lambda model: model.promoted_at or 0, default=None)

    def find(self) -> Sequence[RankingModel]:
        return sorted(self._models.values(), key=lambda model: (-model.trained_at, model.version))

    def drop(self, version: str) -> None:
        self._models.pop(version, None)
