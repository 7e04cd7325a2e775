"""What the warehouse no longer needs: old batches, abandoned ranges, and vectors of texts without events."""

from __future__ import annotations

from include.domain.batch import BatchMode, BatchRef
from include.stores.postgres import Database
from include.stores.warehouse.schema import SQL

#: Rows in one transaction.
SLICE = 10_000


class WarehouseRetention:
    """``ports.Retention``. Ages are in days, by the server's clock."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def count_old_batches(self, days: int) -> int:
        return self._count(SQL["count_old_batches"], days)

    def archive_old_batches(self, days: int) -> int:
        return self._count(SQL["archive_batches"], days, SLICE)

    def count_abandoned_ranges(self, days: int) -> int:
        return len(self._database.query(SQL["abandoned_ranges"], {"days": days}))

    def drop_abandoned_ranges(self, days: int) -> int:
        dropped = 0
        with self._database.transaction() as transaction:
            for topic, shard, start, end in transaction.query(SQL["abandoned_ranges"], {"days": days}):
                where = {"topic": topic, "shard": shard, "start": start, "end": end, "days": days}
                if transaction.execute(SQL["drop_range"], where):
                    # Some stores may have the range, so the lists of its users must be rebuilt.
                    ref = BatchRef(topic, shard, start, end, BatchMode.RANGE)
                    transaction.execute(SQL["release_changed_users"], {"batch": ref.batch_id})
                    dropped += 1
        return dropped

    def count_unused_vectors(self, days: int) -> int:
        return self._count(SQL["count_unused_vectors"], days)

    def delete_unused_vectors(self, days: int) -> int:
        return self._count(SQL["delete_unused_vectors"], days, SLICE)

    def find_open_batches(self) -> set[str]:
        rows = self._database.query(SQL["open_batch_ids"])
        return {BatchRef(topic, shard, start, end, BatchMode(mode)).batch_id for topic, shard, start, end, mode in rows}

    def _count(self, statement: str, days: int, limit: int = 0) -> int:
        number: int = self._database.query(statement, {"days": days, "limit": limit})[0][0]
        return number
