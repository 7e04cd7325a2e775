"""stage: read a batch, validate each message, deduplicate."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from include.domain.batch import EVENT_SCHEMA, BatchMode, BatchRef, DeadLetter, Record, StageCounts, events_table
from include.domain.event import Event, InvalidEventError, decode
from include.domain.precedence import select_winners
from include.errors import ConfigurationError
from include.pipeline.files import events_file
from include.ports import BatchStore, DeadLetters, Ledger, Source, StoredVersions, Validator

log = logging.getLogger(__name__)

type Decoded = list[tuple[Record, Event]]
#: ``[from, to)``: publish times in ms since 1970.
type PublishedRange = tuple[int, int]

#: A range is staged in memory; a longer one has to be ingested in several runs.
RANGE_LIMIT = 500_000


@dataclass(frozen=True)
class StagePorts:
    """What ``stage`` reads and writes."""

    source: Source
    dead_letters: DeadLetters
    validator: Validator
    stored_versions: StoredVersions
    ledger: Ledger
    files: BatchStore


def claim_and_stage(
    topic: str, shard: int, published: PublishedRange | None, batch_size: int, ports: StagePorts
) -> BatchRef | None:
    """Claim and stage the next live batch, or the range published in that time. Returns None if there is none."""
    if published is None:
        ref = claim(topic, shard, batch_size, ports)
    else:
        ref = claim_range(topic, shard, published, ports)
    if ref is not None:
        counts = stage(ref, ports)
        log.info("%s: %s", ref.batch_id, counts)
        for warning in counts.warnings:
            log.warning("%s: %s", ref.batch_id, warning)
    return ref


def claim(topic: str, shard: int, limit: int, ports: StagePorts) -> BatchRef | None:
    """Returns the open batch of an earlier attempt, or claims the next one. None: the shard is drained."""
    return ports.ledger.claim(topic, shard, ports.source.read_offsets(shard), limit)


def claim_range(topic: str, shard: int, published: PublishedRange, ports: StagePorts) -> BatchRef | None:
    """Claim the messages published in that range for a replay. Returns None if there are none."""
    start, end = (ports.source.find_offset(shard, time) for time in published)
    if end <= start:
        return None
    ref = BatchRef(topic, shard, start, end, BatchMode.RANGE)
    if ref.size > RANGE_LIMIT:
        raise ConfigurationError(
            f"the range has {ref.size} offsets of {topic}[{shard}]; one run ingests at most {RANGE_LIMIT}: "
            "split it into several runs"
        )
    ports.ledger.claim_range(ref)
    return ref


def stage(ref: BatchRef, ports: StagePorts) -> StageCounts:
    """Write the batch's events file and dead letters, and record the counts in the ledger. Idempotent."""
    decoded, letters, delivered = _decode(ref, ports.source)
    events = events_table(decoded)
    verdict = ports.validator.validate(events)
    letters += [DeadLetter(ref.topic, decoded[row][0], reason) for row, reason in verdict.rejected.items()]
    valid = _drop_rows(events, verdict.rejected.keys())
    staged = _resolve_stored(select_winners(valid), ports.stored_versions)
    ports.dead_letters.put(sorted(letters, key=lambda letter: letter.record.offset))
    ports.files.write(events_file(ref), staged)
    counts = StageCounts(
        delivered=delivered,
        valid=valid.num_rows,
        dropped=valid.num_rows - staged.num_rows,
        dead_letters=dict(sorted(Counter(letter.reason.value for letter in letters).items())),
        warnings=list(verdict.warnings),
    )
    ports.ledger.record_staged(ref, counts)
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


def _drop_rows(events: pa.Table, rows: Iterable[int]) -> pa.Table:
    keep = np.ones(events.num_rows, dtype=bool)
    keep[list(rows)] = False
    return events.filter(pa.array(keep))


def _resolve_stored(events: pa.Table, stored_versions: StoredVersions) -> pa.Table:
    """Drop events that a newer stored revision supersedes, and mark those that may have an older one to remove.

    A store that does not store the newer revision (because it has no text or item) cannot detect this itself. An event
    equal to the stored one stays in the batch: the warehouse may be the only store that has it.
    """
    outdated, revises = stored_versions.compare(events)
    column = EVENT_SCHEMA.get_field_index("replaces")
    marked = events.set_column(column, EVENT_SCHEMA.field("replaces"), pa.array(revises))
    return marked.filter(pa.array(~outdated))
