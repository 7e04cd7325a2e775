"""stage: read a batch, judge each message, keep each identity once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from include.domain.batch import EVENT_SCHEMA, BatchMode, BatchRef, DeadLetter, Record, StageCounts, events_table
from include.domain.event import Event, InvalidEventError, decode
from include.errors import ConfigurationError
from include.pipeline.files import events_file
from include.ports import BatchStore, DeadLetters, Ledger, Source, Standing, Validator

type Decoded = list[tuple[Record, Event]]

#: A range is staged in memory; a longer one has to be asked for in parts.
RANGE_LIMIT = 500_000


def claim(source: Source, ledger: Ledger, topic: str, shard: int, limit: int) -> BatchRef | None:
    """The batch to ingest now: the open one of an earlier try, or the next; None when the shard is drained."""
    return ledger.claim(topic, shard, source.offsets(shard), limit)


def claim_range(
    source: Source, ledger: Ledger, topic: str, shard: int, published_from: int, published_to: int
) -> BatchRef | None:
    """What was published in ``[from, to)`` (ms since 1970), to be ingested again; None when that is nothing."""
    start, end = source.offset_at(shard, published_from), source.offset_at(shard, published_to)
    if end <= start:
        return None
    ref = BatchRef(topic, shard, start, end, BatchMode.RANGE)
    if ref.size > RANGE_LIMIT:
        raise ConfigurationError(
            f"the range holds {ref.size} offsets of {topic}[{shard}]; ask for at most {RANGE_LIMIT}, in several runs"
        )
    ledger.claim_range(ref)
    return ref


def stage(
    ref: BatchRef,
    source: Source,
    dead_letters: DeadLetters,
    validator: Validator,
    standing: Standing,
    ledger: Ledger,
    store: BatchStore,
) -> StageCounts:
    """Write the batch's events file and dead letters, note the counts in the ledger. May run any number of times."""
    decoded, letters, delivered = _decode(ref, source)
    events = events_table(decoded)
    verdict = validator.validate(events)
    letters += [DeadLetter(ref.topic, decoded[row][0], reason) for row, reason in verdict.rejected.items()]
    valid = _without(events, verdict.rejected.keys())
    staged = _settle(_winners(valid), standing)
    dead_letters.put(sorted(letters, key=lambda letter: letter.record.offset))
    store.write(events_file(ref), staged)
    counts = StageCounts(
        delivered=delivered,
        valid=valid.num_rows,
        dropped=valid.num_rows - staged.num_rows,
        dead_letters=dict(sorted(Counter(letter.reason.value for letter in letters).items())),
        warnings=list(verdict.warnings),
    )
    ledger.staged(ref, counts)
    return counts


def _decode(ref: BatchRef, source: Source) -> tuple[Decoded, list[DeadLetter], int]:
    decoded: Decoded = []
    letters: list[DeadLetter] = []
    for records in source.read(ref.shard, ref.start, ref.end):
        for record in records:
            try:
                decoded.append((record, decode(record.value)))
            except InvalidEventError as error:
                letters.append(DeadLetter(ref.topic, record, error.reason))
    return decoded, letters, len(decoded) + len(letters)


def _without(events: pa.Table, rows: Iterable[int]) -> pa.Table:
    keep = np.ones(events.num_rows, dtype=bool)
    keep[list(rows)] = False
    return events.filter(pa.array(keep))


def _winners(events: pa.Table) -> pa.Table:
    """Each identity once, with its highest (version, digest), ordered by identity: the same whatever came first."""
    by_precedence = [("event_id", "ascending"), ("version", "descending"), ("digest", "descending")]
    ordered = events.sort_by([*by_precedence, ("offset", "ascending")])
    ids = ordered["event_id"].to_numpy()
    first = np.ones(len(ids), dtype=bool)
    first[1:] = ids[1:] != ids[:-1]
    return ordered.filter(pa.array(first))


def _settle(events: pa.Table, standing: Standing) -> pa.Table:
    """Drop what a newer stored content stands for, and mark what may have an older one to remove.

    Only here can a store that would hold nothing of the newer content (no text, no item) learn of it. An event
    whose equal is stored is kept: that store may be the only one that has it.
    """
    newer, revises = standing.standing(events)
    column = EVENT_SCHEMA.get_field_index("replaces")
    marked = events.set_column(column, EVENT_SCHEMA.field("replaces"), pa.array(revises))
    return marked.filter(pa.array(~newer))
