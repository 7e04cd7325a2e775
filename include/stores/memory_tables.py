"""The tables of the warehouse in memory, which the adapters of ``memory_warehouse`` share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa

from include.domain.batch import BatchRef, StageCounts
from include.domain.precedence import Precedence
from include.domain.ranking_model import RankingModel
from include.domain.refusal import Refusal
from include.errors import StaleClaimError

type Row = dict[str, Any]
type Identity = tuple[str, str]
type EngagementKey = tuple[str, str, str, str]

HOUR_MS = 3_600_000


def hour_of(milliseconds: int) -> str:
    """The full hour that contains a time (ms since 1970), RFC 3339."""
    return datetime.fromtimestamp(milliseconds // HOUR_MS * HOUR_MS / 1000, UTC).isoformat()


@dataclass
class MemoryBatch:
    """One row of the ledger: the last claim, what was staged last, and by which epoch."""

    ref: BatchRef
    staged: tuple[int, StageCounts] | None = None
    refused: list[Refusal] = field(default_factory=list)
    is_committed: bool = False
    #: Numbers that only order claims and commits.
    claimed_at: int = 0
    committed_at: int = 0


@dataclass
class MemoryTables:
    """The tables of the warehouse. Several adapters share one instance."""

    events: dict[Identity, Row] = field(default_factory=dict)
    engagement: dict[EngagementKey, tuple[int, int, Decimal]] = field(default_factory=dict)
    topics: dict[str, str] = field(default_factory=dict)
    batches: dict[str, MemoryBatch] = field(default_factory=dict)
    vectors: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    centres: dict[str, tuple[int, np.ndarray]] = field(default_factory=dict)
    touched_hours: dict[str, int] = field(default_factory=dict)
    changed_users: dict[tuple[str, str], int | None] = field(default_factory=dict)
    models: dict[str, RankingModel] = field(default_factory=dict)
    marks: Iterator[int] = field(default_factory=lambda: count(1))
    #: Nothing in memory gets old; tests set it.
    cut_ms: int = 0

    def require_claim(self, ref: BatchRef) -> MemoryBatch:
        """The batch, if ``ref`` is its last claim. Raises ``StaleClaimError`` if not."""
        batch = self.batches.get(ref.batch_id)
        if batch is None or batch.ref.epoch != ref.epoch:
            raise StaleClaimError(f"a later run has claimed batch {ref.batch_id}")
        return batch

    def release_changed_users(self, batch_id: str) -> None:
        """Show the users that a batch has changed to the precompute."""
        for (batch, user), seq in self.changed_users.items():
            if batch == batch_id and seq is None:
                self.changed_users[batch, user] = next(self.marks)

    def store(self, rows: Sequence[Row], batch_id: str) -> None:
        """Store new and newer revisions, and mark the hours and users that they change.

        A stored row that has met another content is marked ``revised``, whichever of them wins.
        """
        for row in rows:
            identity = row["user_id"], row["message_id"]
            old = self.events.get(identity)
            if old is not None and precedence_of(row) <= precedence_of(old):
                old["revised"] |= row["replaces"] or precedence_of(row) < precedence_of(old)
                continue
            self.events[identity] = {**row, "revised": row["replaces"] or old is not None}
            for content in (row, old):
                if content is not None:
                    self.touched_hours[hour_of(content["occurred_at"])] = next(self.marks)
            self.changed_users[batch_id, row["user_id"]] = None
        self._share_unreleased_users({row["user_id"] for row in rows}, batch_id)

    def delete(self, rows: Sequence[Row]) -> int:
        """Delete these events unless a newer revision is stored, and mark their hours and users as changed."""
        limits = {row["event_id"]: precedence_of(row) for row in rows}
        found = [
            (identity, stored)
            for identity, stored in self.events.items()
            if stored["event_id"] in limits and precedence_of(stored) <= limits[stored["event_id"]]
        ]
        for identity, stored in found:
            del self.events[identity]
            self.touched_hours[hour_of(stored["occurred_at"])] = next(self.marks)
            self.changed_users["deleted", stored["user_id"]] = next(self.marks)
        return len(found)

    def _share_unreleased_users(self, users: set[str], batch_id: str) -> None:
        """Mark users of whom another batch, whose run may never commit, has stored an event first."""
        unreleased = {user for (batch, user), seq in self.changed_users.items() if seq is None and batch != batch_id}
        for user in sorted(users & unreleased):
            self.changed_users[batch_id, user] = None


def precedence_of(row: Row) -> Precedence:
    """Decides between two revisions of one event."""
    return Precedence(row["version"], row["digest"])


def rows_of(events: pa.Table) -> list[Row]:
    """The rows of an EVENT_SCHEMA table, with times as ms since 1970."""
    position = events.schema.get_field_index("occurred_at")
    times = events["occurred_at"].cast(pa.int64())
    rows: list[Row] = events.set_column(position, "occurred_at", times).to_pylist()
    return rows
