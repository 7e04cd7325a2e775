"""The warehouse in memory, with the same behaviour as ``stores/warehouse``: for tests and dry runs."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal

import msgspec
import numpy as np
import pyarrow as pa

from include.domain.batch import EVENT_SCHEMA, BatchMode, BatchRef, StageCounts, StagedBatch, next_batch
from include.domain.centre import should_recompute_centre
from include.domain.generation import Generation
from include.domain.mark import Mark
from include.domain.offsets import Offsets
from include.domain.precedence import StoredVersion, compare_versions
from include.domain.ranking import DAY_MS, MAX_HALF_LIVES, kind_weight
from include.domain.refusal import Refusal
from include.errors import ConfigurationError, StaleClaimError
from include.stores.memory_ranking import MemoryEngagementLog, MemoryRankingModels
from include.stores.memory_tables import (
    HOUR_MS,
    EngagementKey,
    MemoryBatch,
    MemoryTables,
    Row,
    hour_of,
    precedence_of,
    rows_of,
)


class MemoryLedger:
    """``ports.Ledger``."""

    def __init__(self, tables: MemoryTables) -> None:
        self._tables = tables

    def confirm_topic(self, topic: str, topic_id: str) -> None:
        if self._tables.topics.setdefault(topic, topic_id) != topic_id:
            raise ConfigurationError(f"the topic {topic} was deleted and created again")

    def claim(self, topic: str, shard: int, offsets: Offsets, limit: int) -> BatchRef | None:
        batches = self._find_batches(topic, shard)
        for batch in batches:
            if not batch.is_committed:
                return self.claim_range(batch.ref)
        claimed = next_batch(topic, shard, batches[-1].ref.end if batches else None, offsets, limit)
        return None if claimed is None else self.claim_range(claimed)

    def claim_range(self, ref: BatchRef) -> BatchRef:
        earlier = self._tables.batches.get(ref.batch_id)
        claimed = msgspec.structs.replace(ref, epoch=1 if earlier is None else earlier.ref.epoch + 1)
        now = next(self._tables.marks)
        if earlier is None:
            self._tables.batches[ref.batch_id] = MemoryBatch(claimed, claimed_at=now)
        else:
            self._tables.batches[ref.batch_id] = MemoryBatch(claimed, earlier.staged, earlier.refused, claimed_at=now)
        return claimed

    def shorten(self, ref: BatchRef, end: int) -> BatchRef:
        if self._tables.require_claim(ref).staged is not None:
            raise StaleClaimError(ref.batch_id)
        shortened = msgspec.structs.replace(ref, end=end)
        del self._tables.batches[ref.batch_id]
        if ref.mode == BatchMode.RANGE:
            return self.claim_range(shortened)
        self._tables.batches[shortened.batch_id] = MemoryBatch(shortened, claimed_at=next(self._tables.marks))
        return shortened

    def read_staged(self, ref: BatchRef) -> tuple[int, StageCounts] | None:
        batch = self._tables.batches.get(ref.batch_id)
        return None if batch is None else batch.staged

    def count_recent(self, ref: BatchRef, messages: int) -> tuple[int, int]:
        delivered = rejected = 0
        for batch in reversed(self._find_batches(ref.topic, ref.shard)):
            if batch.ref.start < ref.start and batch.is_committed and batch.staged and delivered < messages:
                counts = batch.staged[1]
                delivered += counts.delivered
                rejected += counts.delivered - counts.valid
        return delivered, rejected

    def record_staged(self, ref: BatchRef, counts: StageCounts) -> None:
        self._tables.require_claim(ref).staged = ref.epoch, counts

    def record_refused(self, ref: BatchRef, refusals: Sequence[Refusal]) -> None:
        refused = self._tables.require_claim(ref).refused
        refused += [refusal for refusal in refusals if refusal not in refused]

    def read_refused(self, ref: BatchRef) -> Sequence[Refusal]:
        batch = self._tables.batches.get(ref.batch_id)
        return [] if batch is None else list(batch.refused)

    def commit(self, ref: BatchRef) -> None:
        batch = self._tables.require_claim(ref)
        batch.is_committed, batch.committed_at = True, next(self._tables.marks)
        batch.refused.clear()
        self._tables.release_changed_users(ref.batch_id)

    def is_current(self, ref: BatchRef) -> bool:
        batch = self._tables.batches.get(ref.batch_id)
        return batch is not None and batch.ref.epoch == ref.epoch and not batch.is_committed

    def needs_settling(self, ref: BatchRef) -> bool:
        if not self.is_current(ref):
            return False
        own = self._tables.batches[ref.batch_id]
        return (
            ref.mode == BatchMode.RANGE
            or ref.epoch > 1
            or any(
                (other.ref.mode == BatchMode.RANGE and (not other.is_committed or other.committed_at > own.claimed_at))
                or (other.ref.mode == BatchMode.LIVE and other.ref.end == ref.start and other.ref.epoch > 1)
                for other in self._tables.batches.values()
                if (other.ref.topic, other.ref.shard) == (ref.topic, ref.shard)
            )
        )

    def find_open(self, topic: str) -> Sequence[BatchRef]:
        return [each.ref for each in self._tables.batches.values() if each.ref.topic == topic and not each.is_committed]

    def read_cut(self) -> int:
        return self._tables.cut_ms

    def read_position(self, topic: str, shard: int) -> int | None:
        committed = [batch.ref.end for batch in self._find_batches(topic, shard) if batch.is_committed]
        return max(committed, default=None)

    def find_lost(self, topic: str, shard: int, low: int) -> BatchRef | None:
        batches = self._find_batches(topic, shard)
        if not batches:
            return None
        start = min((batch.ref.start for batch in batches if not batch.is_committed), default=batches[-1].ref.end)
        return BatchRef(topic, shard, start, low, BatchMode.LOST) if start < low else None

    def skip_lost(self, topic: str, shard: int, low: int) -> BatchRef | None:
        lost = self.find_lost(topic, shard, low)
        if lost is None:
            return None
        for batch in self._find_batches(topic, shard):
            if not batch.is_committed:
                self._tables.release_changed_users(batch.ref.batch_id)
                del self._tables.batches[batch.ref.batch_id]
        self._tables.batches[lost.batch_id] = MemoryBatch(lost, is_committed=True)
        return lost

    def forget_topic(self, topic: str) -> int:
        forgotten = [batch_id for batch_id, batch in self._tables.batches.items() if batch.ref.topic == topic]
        for batch_id in forgotten:
            del self._tables.batches[batch_id]
        self._tables.topics.pop(topic, None)
        return len(forgotten)

    def _find_batches(self, topic: str, shard: int) -> list[MemoryBatch]:
        """The live and lost batches of a shard, in order."""
        batches = (batch for batch in self._tables.batches.values() if batch.ref.mode != BatchMode.RANGE)
        own = [batch for batch in batches if (batch.ref.topic, batch.ref.shard) == (topic, shard)]
        return sorted(own, key=lambda batch: batch.ref.start)


class MemoryStoredVersions:
    """``ports.StoredVersions``."""

    def __init__(self, tables: MemoryTables) -> None:
        self._tables = tables

    def compare(self, events: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        return compare_versions(events, self._find(events))

    def read(self, events: pa.Table) -> pa.Table:
        origins = events.select(["offset", "published_at", "replaces"]).to_pylist()
        rows = [{**stored, **origins[index]} for index, stored in self._find_rows(events)]
        return pa.Table.from_pylist(rows, schema=EVENT_SCHEMA)

    def _find(self, events: pa.Table) -> Iterator[StoredVersion]:
        for index, stored in self._find_rows(events):
            yield StoredVersion(index, precedence_of(stored), stored["revised"])

    def _find_rows(self, events: pa.Table) -> Iterator[tuple[int, Row]]:
        identities = zip(events["user_id"].to_pylist(), events["message_id"].to_pylist(), strict=True)
        for index, identity in enumerate(identities):
            if identity in self._tables.events:
                yield index, self._tables.events[identity]


class MemoryTextVectors:
    """``ports.TextVectors``. There is only one process, so locks are always free."""

    def __init__(self, tables: MemoryTables) -> None:
        self._tables = tables

    def get(self, generation: Generation, hashes: Sequence[str]) -> Mapping[str, np.ndarray]:
        vectors = self._tables.vectors
        return {h: vectors[generation.name, h] for h in hashes if (generation.name, h) in vectors}

    def put(self, generation: Generation, hashes: Sequence[str], vectors: np.ndarray) -> None:
        for text_hash, vector in zip(hashes, vectors, strict=True):
            self._tables.vectors.setdefault((generation.name, text_hash), vector.astype("<f4"))

    def mark_used(self, generation: Generation, hashes: Sequence[str]) -> None:
        """Nothing in memory gets old."""

    @contextmanager
    def lock(self, generation: Generation, part: str) -> Iterator[None]:
        yield


class MemoryWarehouseSink:
    """``ports.Sink`` for the table of events."""

    name = "warehouse"

    def __init__(self, tables: MemoryTables) -> None:
        self._tables = tables

    def upsert(self, batch: StagedBatch) -> int:
        if batch.ref.epoch or batch.ref.batch_id in self._tables.batches:
            self._tables.require_claim(batch.ref)
        self._tables.store(rows_of(batch.events), batch.ref.batch_id)
        return int(batch.events.num_rows)

    def delete(self, rows: pa.Table) -> int:
        return self._tables.delete(rows.to_pylist())

    def count(self) -> int:
        return len(self._tables.events)

    def close(self) -> None:
        """Nothing to close."""


class MemoryEngagement:
    """``ports.Engagement``."""

    def __init__(self, tables: MemoryTables) -> None:
        self._tables = tables

    def read_touched_hours(self) -> Sequence[Mark]:
        return [Mark(hour, seq) for hour, seq in sorted(self._tables.touched_hours.items())]

    def recount(self, hours: Sequence[str]) -> int:
        recounted = set(hours)
        other = {key: row for key, row in self._tables.engagement.items() if key[0] not in recounted}
        grouped: dict[EngagementKey, list[Row]] = defaultdict(list)
        for row in self._tables.events.values():
            hour = hour_of(row["occurred_at"])
            if hour in recounted:
                grouped[hour, row["item_id"] or "", row["campaign_id"] or "", row["kind"]].append(row)
        new = {
            key: (
                len(rows),
                len({row["user_id"] for row in rows}),
                sum((Decimal(repr(row["value"])) for row in rows if row["value"] is not None), Decimal(0)),
            )
            for key, rows in grouped.items()
        }
        self._tables.engagement = {**other, **new}
        return len(new)

    def recount_between(self, start_ms: int, end_ms: int) -> int:
        times = {row["occurred_at"] // HOUR_MS * HOUR_MS for row in self._tables.events.values()}
        stale = {round(datetime.fromisoformat(key[0]).timestamp() * 1000) for key in self._tables.engagement}
        return self.recount([hour_of(time) for time in times | stale if start_ms <= time < end_ms])

    def clear_hours(self, marks: Sequence[Mark]) -> None:
        for mark in marks:
            if self._tables.touched_hours.get(mark.key) == mark.seq:
                del self._tables.touched_hours[mark.key]

    def rank_popular(self, as_of_ms: int, half_life_days: float, limit: int) -> Sequence[tuple[str, float]]:
        scores: dict[str, float] = defaultdict(float)
        for (hour, item, _, kind), (events, _, _) in self._tables.engagement.items():
            age = max(0, as_of_ms - round(datetime.fromisoformat(hour).timestamp() * 1000))
            if item and kind_weight(kind) > 0:
                half_lives = min(MAX_HALF_LIVES, age / (half_life_days * DAY_MS))
                scores[item] += events * kind_weight(kind) * 0.5**half_lives
        return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:limit]


class MemoryUserActivity:
    """``ports.UserActivity``. ``clock`` returns seconds since 1970."""

    def __init__(self, tables: MemoryTables, clock: Callable[[], float] = time.time) -> None:
        self._tables = tables
        self._clock = clock

    def read_clock_ms(self) -> int:
        return round(self._clock() * 1000)

    def find_newest_event_ms(self) -> int | None:
        return max((row["occurred_at"] for row in self._tables.events.values()), default=None)

    def read_changed_users(self) -> Sequence[Mark]:
        users = self._tables.changed_users.items()
        return sorted(Mark(user, seq) for (_, user), seq in users if seq is not None)

    def clear_changed_users(self, marks: Sequence[Mark]) -> None:
        cleared = set(marks)
        self._tables.changed_users = {
            (batch, user): seq
            for (batch, user), seq in self._tables.changed_users.items()
            if seq is None or Mark(user, seq) not in cleared
        }

    def mark_changed_users(self, users: Sequence[str], batch_id: str) -> None:
        self._tables.changed_users.update(dict.fromkeys(((batch_id, user) for user in users), None))

    def find_active_users(self, since_ms: int | None) -> Sequence[str]:
        rows = self._tables.events.values()
        recent = (row for row in rows if since_ms is None or row["occurred_at"] // HOUR_MS * HOUR_MS >= since_ms)
        return sorted({row["user_id"] for row in recent})

    def filter_known_users(self, users: Sequence[str]) -> Sequence[str]:
        known = {user for user, _ in self._tables.events}
        return [user for user in users if user in known]

    def count_texts(self, users: Sequence[str]) -> pa.Table:
        requested = set(users)
        rows = (row for row in self._tables.events.values() if row["user_id"] in requested and row["text_hash"])
        counts = sorted(Counter((row["user_id"], row["text_hash"]) for row in rows).items())
        return pa.table(
            {
                "user_id": pa.array([user for (user, _), _ in counts], type=pa.string()),
                "text_hash": pa.array([text for (_, text), _ in counts], type=pa.string()),
                "events": pa.array([number for _, number in counts], type=pa.int64()),
            }
        )

    def read_item_texts(self, items: Sequence[str]) -> Mapping[str, str]:
        best: dict[str, Row] = {}
        requested = set(items)
        rows = (row for row in self._tables.events.values() if row["item_id"] in requested and row["text"] is not None)
        titles = [row for row in rows if row["kind"] != "message"]
        for row in sorted(titles, key=lambda row: (-row["occurred_at"], row["event_id"])):
            best.setdefault(row["item_id"], row)
        return {item: row["text"] for item, row in best.items()}

    def refresh_text_centre(self, generation: Generation) -> np.ndarray | None:
        vectors = [v for (name, _), v in sorted(self._tables.vectors.items()) if name == generation.name]
        current = self._tables.centres.get(generation.name)
        if should_recompute_centre(len(vectors), None if current is None else current[0]):
            centre = np.mean(vectors, axis=0, dtype=np.float64).astype("<f4")
            self._tables.centres[generation.name] = current = (len(vectors), centre)
            for user in self.find_active_users(None):
                self._tables.changed_users[f"centre-{len(vectors)}", user] = next(self._tables.marks)
        return None if current is None else current[1]


class MemoryExpiry:
    """The part of ``ports.Expiry`` that reconcile needs: nothing in memory gets old."""

    def find(self, keys: Sequence[tuple[str, str]]) -> set[str]:
        return set()


class MemoryWarehouse:
    """All ports of the warehouse on shared tables, like ``stores.warehouse.warehouse.Warehouse``."""

    def __init__(self, tables: MemoryTables | None = None) -> None:
        self.tables = tables or MemoryTables()
        self.ledger = MemoryLedger(self.tables)
        self.stored_versions = MemoryStoredVersions(self.tables)
        self.text_vectors = MemoryTextVectors(self.tables)
        self.engagement = MemoryEngagement(self.tables)
        self.activity = MemoryUserActivity(self.tables)
        self.expiry = MemoryExpiry()
        self.engagement_log = MemoryEngagementLog(self.tables)
        self.models = MemoryRankingModels(self.tables)

    def close(self) -> None:
        """Nothing to close."""
