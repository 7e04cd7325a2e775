"""Sinks in memory, for tests and dry runs: the same rules as the servers', on a dict."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import pyarrow as pa

from include.domain.batch import StagedBatch

type Rows = MutableMapping[str, dict[str, Any]]


class MemorySink:
    """Keeps the events that have a ``needs`` (all events, if None) in ``rows``, by event id.

    A row has the columns of EVENT_SCHEMA, times as ms since 1970; with ``needs="text"`` also the ``vector``.
    """

    def __init__(self, name: str, needs: str | None = None, rows: Rows | None = None) -> None:
        self._name = name
        self._needs = needs
        self.rows: Rows = {} if rows is None else rows

    @property
    def name(self) -> str:
        """The name of the store it stands for."""
        return self._name

    def upsert(self, batch: StagedBatch) -> int:
        """Store the events that this store is for."""
        vectors = dict(zip(batch.text_hashes, batch.vectors, strict=True))
        taken = 0
        for row in _rows(batch.events):
            wanted = self._needs is None or row[self._needs] is not None
            taken += wanted
            if self._needs == "text" and wanted:
                row["vector"] = vectors[row["text_hash"]]
            self._keep_newest(row, wanted)
        return taken

    def count(self) -> int:
        """How many events there are."""
        return len(self.rows)

    def close(self) -> None:
        """Nothing to close."""

    def _keep_newest(self, row: dict[str, Any], wanted: bool) -> None:
        known = self.rows.get(row["event_id"])
        if known is not None and (known["version"], known["digest"]) >= (row["version"], row["digest"]):
            return
        if wanted:
            self.rows[row["event_id"]] = row
        elif known is not None and row["replaces"]:
            del self.rows[row["event_id"]]


def _rows(events: pa.Table) -> list[dict[str, Any]]:
    times = events.column("occurred_at").cast(pa.int64())
    rows: list[dict[str, Any]] = events.set_column(
        events.schema.get_field_index("occurred_at"), "occurred_at", times
    ).to_pylist()
    return rows
