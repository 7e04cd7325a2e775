"""The batch: a claimed range of offsets of one shard, and the result of staging it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec
import numpy as np
import pyarrow as pa

from include.domain.event import Event
from include.domain.offsets import Offsets
from include.errors import OffsetsGoneError

#: One row per event, in every file that the tasks of an ingest run pass on.
EVENT_SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("message_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("occurred_at", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("text", pa.string()),
        pa.field("item_id", pa.string()),
        pa.field("campaign_id", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("version", pa.int64(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("extra", pa.string()),
        pa.field("text_hash", pa.string()),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("published_at", pa.int64(), nullable=False),
        #: Whether a store may have a losing revision of this identity, which has to be removed.
        pa.field("replaces", pa.bool_(), nullable=False),
    ]
)


class BatchMode(StrEnum):
    """LIVE batches are consecutive and move the offsets; RANGE batches replay a range and move nothing.

    LOST is only in the ledger: offsets that the topic had deleted before they were read.
    """

    LIVE = "live"
    RANGE = "range"
    LOST = "lost"


class BatchRef(msgspec.Struct, frozen=True):
    """``[start, end)`` of one shard: the only value that tasks pass on, apart from counters.

    ``epoch`` counts the claims of the batch: only the run that claimed it last may write and commit it. 0 means that
    it was not claimed in a ledger.
    """

    topic: str
    shard: int
    start: int
    end: int
    mode: BatchMode = BatchMode.LIVE
    epoch: int = 0

    @property
    def batch_id(self) -> str:
        """Computed from the range and the mode alone, so a retry, or a second run over the range, has the same id."""
        return f"{self.topic}-{self.shard:03d}-{self.start:012d}-{self.end:012d}-{self.mode}"

    @property
    def size(self) -> int:
        """The number of offsets in the range."""
        return self.end - self.start


class Record(msgspec.Struct, frozen=True):
    """One Kafka message: its shard and offset, its publish time (ms since 1970), its key and its value.

    ``redrives``: how often it was redriven from the dead letters, last from the one of origin ``redriven_from``.
    """

    shard: int
    offset: int
    published_at: int
    key: bytes | None
    value: bytes | None
    redrives: int = 0
    redriven_from: str | None = None


class DeadLetter(msgspec.Struct, frozen=True):
    """A message that is not a valid event, or that a store refuses, with the reason and its original bytes."""

    topic: str
    record: Record
    #: A ``Reason``, or ``refused_by`` a store.
    reason: str

    @property
    def origin(self) -> str:
        """topic-partition-offset: the key by which readers drop duplicate dead letters."""
        return f"{self.topic}-{self.record.shard}-{self.record.offset}"


@dataclass(frozen=True)
class StagedBatch:
    """The valid events of a batch, one row per event, and the vectors of their texts.

    ``events`` has EVENT_SCHEMA. ``vectors`` has one normalised float32 row for each of ``text_hashes``; both are empty
    for a sink that needs no vectors.
    """

    ref: BatchRef
    events: pa.Table
    text_hashes: tuple[str, ...] = ()
    vectors: np.ndarray = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))


class StageCounts(msgspec.Struct, frozen=True):
    """The outcome of staging a batch: delivered = valid + the sum of dead_letters."""

    delivered: int = 0
    valid: int = 0
    #: Valid events superseded by another event of the batch or by a stored revision, which takes their place, and those
    #: older than retention.
    dropped: int = 0
    dead_letters: dict[str, int] = {}
    warnings: list[str] = []


def events_table(events: Iterable[tuple[Record, Event]]) -> pa.Table:
    """EVENT_SCHEMA rows for ``events``, in the same order; ``replaces`` is false."""
    rows = list(events)
    columns = [
        [event.event_id for _, event in rows],
        [event.user_id for _, event in rows],
        [event.message_id for _, event in rows],
        [event.kind for _, event in rows],
        [event.occurred_at for _, event in rows],
        [event.text for _, event in rows],
        [event.item_id for _, event in rows],
        [event.campaign_id for _, event in rows],
        [event.value for _, event in rows],
        [event.version for _, event in rows],
        [event.digest for _, event in rows],
        [event.extra for _, event in rows],
        [event.text_hash for _, event in rows],
        [record.offset for record, _ in rows],
        [record.published_at for record, _ in rows],
        [False] * len(rows),
    ]
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, EVENT_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=EVENT_SCHEMA)


def next_batch(topic: str, shard: int, last_end: int | None, offsets: Offsets, limit: int) -> BatchRef | None:
    """The live batch after ``last_end``, at most ``limit`` offsets long; None when the topic holds nothing more.

    Raises ``OffsetsGoneError`` when the topic no longer has the next offset, or never had it.
    """
    start = offsets.low if last_end is None else last_end
    if start < offsets.low:
        raise OffsetsGoneError(
            f"offsets {start} to {offsets.low} of {topic}[{shard}] were removed by retention before they were read: "
            f"raise the topic's retention.ms, then run python -m include.cli skip-lost --shard {shard}"
        )
    if start > offsets.high:
        raise OffsetsGoneError(
            f"the ledger's position in {topic}[{shard}] is {start}, but the partition ends at {offsets.high}: it lost "
            "acknowledged messages, or the warehouse belongs to another Kafka cluster"
        )
    end = min(offsets.high, start + limit)
    return BatchRef(topic, shard, start, end) if end > start else None
