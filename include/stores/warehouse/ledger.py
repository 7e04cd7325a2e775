"""The ledger: which offsets were claimed, what they contained, and whether every store has them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec

from include.domain.batch import BatchMode, BatchRef, StageCounts, next_batch
from include.domain.offsets import Offsets
from include.domain.refusal import Refusal
from include.errors import ConfigurationError, StaleClaimError
from include.stores.postgres import Database, Transaction
from include.stores.warehouse.schema import SQL


class WarehouseLedger:
    """``ports.Ledger`` in schema pipeline."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def confirm_topic(self, topic: str, topic_id: str) -> None:
        known = self._database.query(SQL["topic_id"], {"topic": topic, "topic_id": topic_id})[0][0]
        if known != topic_id:
            raise recreated_topic_error(topic)

    def claim(self, topic: str, shard: int, offsets: Offsets, limit: int) -> BatchRef | None:
        with self._database.transaction() as transaction:
            where = {"topic": topic, "shard": shard}
            transaction.query(SQL["share_claims"])
            claimed_end = transaction.query(SQL["lock_shard"], where)[0][0]
            for start, end in transaction.query(SQL["open_batch"], where):
                return _claim(transaction, BatchRef(topic, shard, start, end))
            ref = next_batch(topic, shard, claimed_end, offsets, limit)
            if ref is None:
                return None
            transaction.execute(SQL["set_claimed_end"], _parameters(ref))
            return _claim(transaction, ref)

    def claim_range(self, ref: BatchRef) -> BatchRef:
        with self._database.transaction() as transaction:
            transaction.query(SQL["share_claims"])
            return _claim(transaction, ref)

    def shorten(self, ref: BatchRef, end: int) -> BatchRef:
        parameters = {**_parameters(ref), "new_end": end}
        shortened = msgspec.structs.replace(ref, end=end)
        with self._database.transaction() as transaction:
            if ref.mode == BatchMode.RANGE:
                # An earlier replay may have had the shorter range.
                _require_row(ref, transaction.execute(SQL["drop_unstaged"], parameters))
                return _claim(transaction, shortened)
            transaction.query(SQL["lock_shard"], parameters)
            _require_row(ref, transaction.execute(SQL["shorten_batch"], parameters))
            transaction.execute(SQL["lower_claimed_end"], parameters)
        return shortened

    def read_staged(self, ref: BatchRef) -> tuple[int, StageCounts] | None:
        for epoch, *counts in self._database.query(SQL["read_staged"], _parameters(ref)):
            return epoch, StageCounts(*counts)
        return None

    def count_recent(self, ref: BatchRef, messages: int) -> tuple[int, int]:
        parameters = {**_parameters(ref), "messages": messages}
        delivered, rejected = self._database.query(SQL["recent_counts"], parameters)[0]
        return int(delivered), int(rejected)

    def record_staged(self, ref: BatchRef, counts: StageCounts) -> None:
        outcome = {
            "delivered": counts.delivered,
            "valid": counts.valid,
            "dropped": counts.dropped,
            "dead_letters": json.dumps(counts.dead_letters),
            "warnings": json.dumps(counts.warnings),
        }
        _require_row(ref, self._database.execute(SQL["record_staged"], {**_parameters(ref), **outcome}))

    def record_refused(self, ref: BatchRef, refusals: Sequence[Refusal]) -> None:
        with self._database.transaction() as transaction:
            require_claim(transaction, ref)
            for refusal in refusals:
                transaction.execute(SQL["record_refused"], {**_parameters(ref), **msgspec.structs.asdict(refusal)})

    def read_refused(self, ref: BatchRef) -> Sequence[Refusal]:
        return [Refusal(*row) for row in self._database.query(SQL["read_refused"], _parameters(ref))]

    def commit(self, ref: BatchRef) -> None:
        with self._database.transaction() as transaction:
            _require_row(ref, transaction.execute(SQL["commit"], _parameters(ref)))
            transaction.execute(SQL["forget_refused"], _parameters(ref))
            if ref.mode == BatchMode.LIVE:
                transaction.execute(SQL["set_committed_end"], _parameters(ref))
            transaction.execute(SQL["release_changed_users"], {"batch": ref.batch_id})

    def is_current(self, ref: BatchRef) -> bool:
        return bool(self._database.query(SQL["is_current"], _parameters(ref)))

    def needs_settling(self, ref: BatchRef) -> bool:
        rows = self._database.query(SQL["needs_settling"], _parameters(ref))
        return bool(rows and rows[0][0])

    def find_open(self, topic: str) -> Sequence[BatchRef]:
        rows = self._database.query(SQL["open_batches"], {"topic": topic})
        return [BatchRef(topic, shard, start, end, BatchMode(mode), epoch) for shard, start, end, mode, epoch in rows]

    def read_cut(self) -> int:
        rows = self._database.query(SQL["read_cut"])
        return int(rows[0][0]) if rows else 0

    def read_position(self, topic: str, shard: int) -> int | None:
        rows = self._database.query(SQL["position"], {"topic": topic, "shard": shard})
        return rows[0][0] if rows else None

    def find_lost(self, topic: str, shard: int, low: int) -> BatchRef | None:
        with self._database.transaction() as transaction:
            return _find_lost(transaction, topic, shard, low)

    def skip_lost(self, topic: str, shard: int, low: int) -> BatchRef | None:
        with self._database.transaction() as transaction:
            lost = _find_lost(transaction, topic, shard, low)
            if lost is None:
                return None
            for start, end in transaction.query(SQL["delete_open_batches"], _parameters(lost)):
                # Some stores may have the batch, so the lists of its users must be rebuilt.
                closed = BatchRef(topic, shard, start, end)
                transaction.execute(SQL["release_changed_users"], {"batch": closed.batch_id})
            transaction.execute(SQL["record_lost"], _parameters(lost))
            transaction.execute(SQL["move_position"], _parameters(lost))
            return lost

    def forget_topic(self, topic: str) -> int:
        batches: int = self._database.query(SQL["forget_topic"], {"topic": topic})[0][0]
        return batches


def require_claim(transaction: Transaction, ref: BatchRef) -> None:
    """Raise ``StaleClaimError`` unless ``ref`` is its batch's last claim; later claims wait for the transaction."""
    rows = transaction.query(SQL["lock_epoch"], _parameters(ref))
    if ref.epoch != (rows[0][0] if rows else 0):
        raise stale_claim_error(ref)


def recreated_topic_error(topic: str) -> ConfigurationError:
    """The error for a topic whose id differs from the one in the ledger."""
    return ConfigurationError(
        f"the topic {topic} was deleted and created again, so the ledger's positions don't apply to it: set "
        "MILLRACE_TOPIC to another topic, or read this one from its first offset: "
        "python -m include.cli restart-topic"
    )


def stale_claim_error(ref: BatchRef) -> StaleClaimError:
    """The error for a run that was overtaken."""
    return StaleClaimError(
        f"a later run has claimed batch {ref.batch_id}, so this one stops: nothing is lost, and there is nothing to do"
    )


def _find_lost(transaction: Transaction, topic: str, shard: int, low: int) -> BatchRef | None:
    where = {"topic": topic, "shard": shard}
    start = transaction.query(SQL["lock_shard"], where)[0][0]
    for open_start, _ in transaction.query(SQL["open_batch"], where):
        start = open_start
    return BatchRef(topic, shard, start, low, BatchMode.LOST) if start is not None and start < low else None


def _claim(transaction: Transaction, ref: BatchRef) -> BatchRef:
    epoch = transaction.query(SQL["claim"], _parameters(ref))[0][0]
    return msgspec.structs.replace(ref, epoch=epoch)


def _require_row(ref: BatchRef, affected: int) -> None:
    if affected == 0:
        raise stale_claim_error(ref)


def _parameters(ref: BatchRef) -> dict[str, object]:
    mode = BatchMode(ref.mode).value
    return {
        "topic": ref.topic, "shard": ref.shard, "start": ref.start, "end": ref.end, "mode": mode, "epoch": ref.epoch,
    }  # fmt: skip
