"""Sinks in memory, for tests and dry runs: the same rules as on the servers, on a dict."""

from __future__ import annotations

from collections.abc import MutableMapping

import pyarrow as pa

from include.domain.batch import StagedBatch
from include.stores.memory_tables import Row, precedence_of, rows_of

type Rows = MutableMapping[str, Row]


class MemorySink:
    """Stores the events that have the field ``needs`` (all events if None) in ``rows``, by event id.

    A row has the columns of EVENT_SCHEMA, with times as ms since 1970; with ``needs_vectors`` also its ``vector``.
    """

    def __init__(
        self, name: str, needs: str | None = None, *, needs_vectors: bool = False, rows: Rows | None = None
    ) -> None:
        self._name = name
        self._needs = needs
        self._needs_vectors = needs_vectors
        self.rows: Rows = {} if rows is None else rows

    @property
    def name(self) -> str:
        """The name of the store that it replaces."""
        return self._name

    def upsert(self, batch: StagedBatch) -> int:
        """Store the events that belong in this store."""
        vectors = dict(zip(batch.text_hashes, batch.vectors, strict=True))
        stored = 0
        for row in rows_of(batch.events):
            is_kept = self._needs is None or row[self._needs] is not None
            stored += is_kept
            if self._needs_vectors and is_kept:
                row["vector"] = vectors[row["text_hash"]]
            self._store_if_newer(row, is_kept)
        return stored

    def delete(self, rows: pa.Table) -> int:
        """Delete these events unless a newer revision is stored."""
        found = [row["event_id"] for row in rows.to_pylist() if self._is_deleted_by(row)]
        for event_id in found:
            del self.rows[event_id]
        return len(found)

    def count(self) -> int:
        """Returns the number of events stored."""
        return len(self.rows)

    def close(self) -> None:
        """Nothing to close."""

    def _is_deleted_by(self, row: Row) -> bool:
        stored = self.rows.get(row["event_id"])
        return stored is not None and precedence_of(stored) <= precedence_of(row)

    def _store_if_newer(self, row: Row, is_kept: bool) -> None:
        stored = self.rows.get(row["event_id"])
        if stored is not None and precedence_of(stored) >= precedence_of(row):
            return
        if is_kept:
            self.rows[row["event_id"]] = row
        elif stored is not None and row["replaces"]:
            del self.rows[row["event_id"]]
