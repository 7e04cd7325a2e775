"""What the learned ranking reads of the events, and the trained models."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import pyarrow as pa

from include.domain.ranking_model import RankingModel, unknown_version
from include.stores.postgres import Database
from include.stores.warehouse.engagement import WEIGHTS, to_datetime
from include.stores.warehouse.schema import SQL

_CHUNK = 50_000
_ENGAGEMENT_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string()),
        pa.field("item_id", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("occurred_at", pa.int64()),
    ]
)


class WarehouseEngagementLog:
    """``ports.EngagementLog`` on the table of events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def count(self) -> int:
        return int(self._database.query(SQL["count_engagements"])[0][0])

    def scan(self) -> Iterator[pa.Table]:
        for rows in self._database.stream(SQL["scan_engagements"], {}, _CHUNK):
            columns = [pa.array(column) for column in zip(*rows, strict=True)]
            yield pa.Table.from_arrays(columns, schema=_ENGAGEMENT_SCHEMA)

    def summarise_items(self, as_of_ms: int, half_lives: Sequence[float | None]) -> pa.Table:
        parameters = {
            "as_of": to_datetime(as_of_ms),
            "half_lives": [math.inf if days is None else float(days) for days in half_lives],
            **WEIGHTS,
        }
        rows = self._database.query(SQL["summarise_items"], parameters)
        items, first, scores = zip(*rows, strict=True) if rows else ((), (), ())
        return pa.table(
            {
                "item_id": pa.array(items, type=pa.string()),
                "first_at": pa.array(first, type=pa.int64()),
                "scores": pa.array(scores, type=pa.list_(pa.float64())),
            }
        )


class WarehouseRankingModels:
    """``ports.RankingModels``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, model: RankingModel) -> None:
        times = {"trained_at": to_datetime(model.trained_at), "as_of": to_datetime(model.as_of)}
        self._database.execute(SQL["add_model"], {**asdict(model), **times})

    def promote(self, version: str, now_ms: int) -> None:
        parameters = {"version": version, "now": to_datetime(now_ms)}
        if not self._database.query(SQL["promote_model"], parameters):
            raise unknown_version(version)

    def read_current(self) -> RankingModel | None:
        rows = self._database.query(SQL["current_model"])
        return RankingModel(*rows[0]) if rows else None

    def find(self) -> Sequence[RankingModel]:
        return [RankingModel(*row) for row in self._database.query(SQL["models"])]

    def drop(self, version: str) -> None:
        self._database.execute(SQL["drop_model"], {"version": version})
