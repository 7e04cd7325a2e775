"""The warehouse as a sink: every valid event, and the marks of what it changes, in one transaction."""

from __future__ import annotations

from include.domain.batch import StagedBatch
from include.stores.postgres import Database
from include.stores.warehouse.schema import SQL

_COLUMNS = [
    "user_id",
    "message_id",
    "event_id",
    "kind",
    "occurred_at",
    "text",
    "text_hash",
    "item_id",
    "campaign_id",
    "value",
    "version",
    "digest",
    "extra",
]


class WarehouseSink:
    """``ports.Sink`` for the table of events."""

    name = "warehouse"

    def __init__(self, database: Database) -> None:
        self._database = database

    def upsert(self, batch: StagedBatch) -> int:
        with self._database.transaction() as transaction:
            transaction.run(SQL["incoming"])
            transaction.copy("incoming", batch.events.select(_COLUMNS))
            transaction.rows(SQL["upsert_events"], {"batch": batch.ref.batch_id})
        return int(batch.events.num_rows)

    def count(self) -> int:
        """How many distinct events are stored."""
        return int(self._database.rows(SQL["event_count"])[0][0])

    def close(self) -> None:
        """Give the connection back."""
        self._database.close()
