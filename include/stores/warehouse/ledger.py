"""The ledger: which offsets were claimed, what they contained, and whether every store has them."""

from __future__ import annotations

import json

from include.domain.batch import BatchMode, BatchRef, StageCounts, next_batch
from include.domain.offsets import Offsets
from include.stores.postgres import Database
from include.stores.warehouse.schema import SQL


class WarehouseLedger:
    """``ports.Ledger`` in schema pipeline."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, topic: str, shard: int, offsets: Offsets, limit: int) -> BatchRef | None:
        with self._database.transaction() as transaction:
            where = {"topic": topic, "shard": shard}
            transaction.execute(SQL["lock_shard"], where)
            for start, end in transaction.query(SQL["open_batch"], where):
                return BatchRef(topic, shard, start, end)
            last = transaction.query(SQL["last_claimed"], where)[0][0]
            ref = next_batch(topic, shard, last, offsets, limit)
            if ref is not None:
                transaction.execute(SQL["claim"], _parameters(ref))
            return ref

    def claim_range(self, ref: BatchRef) -> None:
        self._database.execute(SQL["claim"], _parameters(ref))

    def record_staged(self, ref: BatchRef, counts: StageCounts) -> None:
        outcome = {
            "delivered": counts.delivered,
            "valid": counts.valid,
            "dropped": counts.dropped,
            "dead_letters": json.dumps(counts.dead_letters),
            "warnings": json.dumps(counts.warnings),
        }
        self._database.execute(SQL["record_staged"], {**_parameters(ref), **outcome})

    def commit(self, ref: BatchRef) -> None:
        with self._database.transaction() as transaction:
            transaction.execute(SQL["commit"], _parameters(ref))
            transaction.execute(SQL["release_changed_users"], {"batch": ref.batch_id})

    def read_position(self, topic: str, shard: int) -> int | None:
        position: int | None = self._database.query(SQL["position"], {"topic": topic, "shard": shard})[0][0]
        return position


def _parameters(ref: BatchRef) -> dict[str, object]:
    mode = BatchMode(ref.mode).value
    return {"topic": ref.topic, "shard": ref.shard, "start": ref.start, "end": ref.end, "mode": mode}
