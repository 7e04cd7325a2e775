"""The warehouse as a sink: stores every valid event and marks what it changes, in one transaction."""

from __future__ import annotations

import pyarrow as pa

from include.domain.batch import StagedBatch
from include.settings import WarehouseSettings
from include.stores.warehouse.ledger import require_claim
from include.stores.warehouse.schema import SQL
from include.stores.warehouse.warehouse import Warehouse

#: What the table of events has of EVENT_SCHEMA.
COLUMNS = [
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
    "published_at",
    "replaces",
]


class WarehouseSink:
    """``ports.Sink`` on the table of events."""

    name = "warehouse"

    def __init__(self, settings: WarehouseSettings) -> None:
        self._warehouse = Warehouse(settings)

    def upsert(self, batch: StagedBatch) -> int:
        """Store every event of the batch. Raises ``StaleClaimError`` if a later run has claimed it."""
        with self._warehouse.database.transaction() as transaction:
            require_claim(transaction, batch.ref)
            transaction.execute(SQL["create_incoming"])
            transaction.copy("incoming", batch.events.select(COLUMNS))
            transaction.query(SQL["upsert_events"], {"batch": batch.ref.batch_id})
            transaction.execute(SQL["share_unreleased_users"], {"batch": batch.ref.batch_id})
        return int(batch.events.num_rows)

    def delete(self, rows: pa.Table) -> int:
        """Delete these events unless a newer revision is stored, and mark their hours and users as changed."""
        parameters = {name: rows[name].to_pylist() for name in ("event_id", "user_id", "version", "digest")}
        return int(self._warehouse.database.query(SQL["delete_events"], parameters)[0][0])

    def count(self) -> int:
        """Returns the number of distinct events stored."""
        return self._warehouse.stats.count_events()

    def close(self) -> None:
        """Close the connection."""
        self._warehouse.close()
