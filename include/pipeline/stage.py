"""stage: read a batch, validate each message, deduplicate."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from include.domain.batch import BatchMode, BatchRef, DeadLetter, Record, StageCounts, events_table
from include.domain.event import Event, InvalidEventError, decode
from include.domain.precedence import mark_replacing, select_winners
from include.domain.reasons import refused_by
from include.domain.refusal import Refusal, refused_keys
from include.errors import ConfigurationError, OffsetsGoneError, RejectShareError
from include.pipeline.files import events_file
from include.ports import BatchStore, DeadLetters, Ledger, Sink, Source, StoredVersions, Validator
from include.settings import PipelineSettings

log = logging.getLogger(__name__)

type Decoded = list[tuple[Record, Event]]


class _ReadBatch(NamedTuple):
    """The messages of ``[ref.start, end)``: events, and dead letters."""

    decoded: Decoded
    letters: list[DeadLetter]
    end: int


@dataclass(frozen=True)
class StageLimits:
    """How many bytes of messages a batch may have, and how many of a shard's live messages may be rejected.

    The share is that of the last ``reject_window`` messages or more, in percent.
    """

    max_bytes: int = sys.maxsize
    max_reject_percent: int = 100
    reject_window: int = 1


NO_LIMITS = StageLimits()


@dataclass(frozen=True)
class StagePorts:
    """What ``stage`` reads and writes."""

    source: Source
    dead_letters: DeadLetters
    validator: Validator
    stored_versions: StoredVersions
    ledger: Ledger
    files: BatchStore
    #: Opens every sink, to remove from all of them what one has refused.
    open_sinks: Callable[[], AbstractContextManager[Iterable[Sink]]] = field(default=lambda: nullcontext(()))


def claim_and_stage(topic: str, shard: int, settings: PipelineSettings, ports: StagePorts) -> BatchRef | None:
    """Claim and stage the next live batch. Returns None if there is nothing to read."""
    check_topic(topic, settings.shards, ports)
    claimed = claim(topic, shard, settings.batch_size, ports)
    if claimed is None:
        _restore_group_offset(topic, shard, ports)
        return None
    limits = StageLimits(settings.batch_bytes, settings.max_reject_percent, settings.reject_window)
    ref, counts = stage(claimed, ports, limits)
    log.info("%s: %s", ref.batch_id, counts)
    for warning in counts.warnings:
        log.warning("%s: %s", ref.batch_id, warning)
    return ref


def check_topic(topic: str, shards: int, ports: StagePorts) -> None:
    """Raise ``ConfigurationError`` if the topic was recreated, or has another number of partitions than shards."""
    topic_id, partitions = ports.source.describe()
    if partitions != shards:
        raise ConfigurationError(
            f"the topic {topic} has {partitions} partitions, but MILLRACE_SHARDS is {shards}: set it to {partitions}, "
            "and restart Airflow, so that every partition has its DAG"
        )
    ports.ledger.confirm_topic(topic, topic_id)


def _restore_group_offset(topic: str, shard: int, ports: StagePorts) -> None:
    """Kafka forgets the offsets of a group that commits nothing for a week; whoever watches its lag needs them."""
    position = ports.ledger.read_position(topic, shard)
    if position is not None:
        ports.source.commit(shard, position)


def claim(topic: str, shard: int, limit: int, ports: StagePorts) -> BatchRef | None:
    """Returns the open batch of an earlier attempt, or claims the next one. None: the shard is drained."""
    return ports.ledger.claim(topic, shard, ports.source.read_offsets(shard), limit)


def stage(ref: BatchRef, ports: StagePorts, limits: StageLimits = NO_LIMITS) -> tuple[BatchRef, StageCounts]:
    """Write the batch's events file and dead letters, and record the counts in the ledger. May run twice.

    A batch with more than ``limits.max_bytes`` of messages ends there, unless a store may have more of it already.
    Returns the batch as it was staged. Raises ``RejectShareError``, before any dead letter is written, if too many
    messages of a live batch are rejected.
    """
    earlier = ports.ledger.read_staged(ref)
    refused = [] if earlier is None else ports.ledger.read_refused(ref)
    try:
        read = _read(ref, ports.source, limits.max_bytes if earlier is None else NO_LIMITS.max_bytes)
    except OffsetsGoneError:
        if earlier is None or refused:
            raise
        return ref, _stage_again(ref, *earlier, ports)
    if read.end < ref.end:
        ref = ports.ledger.shorten(ref, read.end)
    if refused:
        _remove(refused, ports)
    return ref, _stage_records(ref, read, refused, None if earlier is None else earlier[1], limits, ports)


def _remove(refused: Sequence[Refusal], ports: StagePorts) -> None:
    """Remove the refused contents from the stores that did not refuse them, so that all have the same events."""
    keys = refused_keys(refused)
    with ports.open_sinks() as sinks:
        for sink in sinks:
            sink.delete(keys)


def _stage_again(ref: BatchRef, epoch: int, counts: StageCounts, ports: StagePorts) -> StageCounts:
    """Stage the file of an earlier run, because the topic no longer has the messages."""
    events = ports.files.read(events_file(msgspec.structs.replace(ref, epoch=epoch)))
    events = _drop_expired(events, ports.ledger)
    ports.files.write(events_file(ref), _resolve_stored(events, ports.stored_versions)[0])
    ports.ledger.record_staged(ref, counts)
    return counts


def _stage_records(
    ref: BatchRef,
    read: _ReadBatch,
    refused: Sequence[Refusal],
    earlier: StageCounts | None,
    limits: StageLimits,
    ports: StagePorts,
) -> StageCounts:
    events = events_table(read.decoded)
    verdict = ports.validator.validate(events)
    reasons = {**_find_refused(events, refused), **verdict.rejected}
    rejected = [DeadLetter(ref.topic, read.decoded[row][0], reason) for row, reason in reasons.items()]
    letters = sorted([*read.letters, *rejected], key=lambda letter: letter.record.offset)
    valid = _drop_rows(events, reasons.keys())
    kept = _drop_expired(valid, ports.ledger)
    staged, outdated = _resolve_stored(select_winners(kept), ports.stored_versions)
    counts = StageCounts(
        delivered=len(read.decoded) + len(read.letters),
        valid=valid.num_rows,
        dropped=valid.num_rows - staged.num_rows + outdated,
        dead_letters=dict(sorted(Counter(str(letter.reason) for letter in letters).items())),
        warnings=[*verdict.warnings, *_warn_of_expired(valid.num_rows - kept.num_rows)],
    )
    if earlier is None and ref.mode == BatchMode.LIVE:
        _check_reject_share(ref, counts, limits, ports.ledger)
    if earlier is None or earlier.dead_letters != counts.dead_letters:
        # A batch that waits for a store is staged every half minute; its letters are in the topic since the first time.
        ports.dead_letters.put(letters)
    ports.files.write(events_file(ref), staged)
    ports.ledger.record_staged(ref, counts)
    return counts


def _check_reject_share(ref: BatchRef, counts: StageCounts, limits: StageLimits, ledger: Ledger) -> None:
    delivered, rejected = counts.delivered, counts.delivered - counts.valid
    if not rejected:
        return
    if delivered < limits.reject_window:
        earlier_delivered, earlier_rejected = ledger.count_recent(ref, limits.reject_window - delivered)
        delivered, rejected = delivered + earlier_delivered, rejected + earlier_rejected
    if delivered < limits.reject_window or 100 * rejected <= limits.max_reject_percent * delivered:
        return
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts.dead_letters.items())
    raise RejectShareError(
        f"{rejected:,} of the last {delivered:,} messages of {ref.topic}[{ref.shard}] are not valid events, more than "
        f"{limits.max_reject_percent} % (offsets {ref.start} to {ref.end}: {reasons}). Fix their producer; or, to make "
        "dead letters of them, raise millrace_max_reject_percent (MILLRACE_MAX_REJECT_PERCENT in the environment)"
    )


def _read(ref: BatchRef, source: Source, max_bytes: int) -> _ReadBatch:
    decoded: Decoded = []
    letters: list[DeadLetter] = []
    size = 0
    for records in source.read(ref.shard, ref.start, ref.end):
        for record in records:
            size += len(record.value or b"")
            if size > max_bytes and (decoded or letters):
                return _ReadBatch(decoded, letters, record.offset)
            try:
                decoded.append((record, decode(record.value)))
            except InvalidEventError as error:
                letters.append(DeadLetter(ref.topic, record, error.reason))
    return _ReadBatch(decoded, letters, ref.end)


def _drop_expired(events: pa.Table, ledger: Ledger) -> pa.Table:
    """Without the messages that were published before the cut: retention has deleted their events."""
    cut = ledger.read_cut()
    if not cut:
        return events
    return events.filter(pa.array(events["published_at"].to_numpy() >= cut))


def _warn_of_expired(messages: int) -> list[str]:
    return [f"{messages:,} messages older than retention (millrace_keep_events_days) are left out"] if messages else []


def _find_refused(events: pa.Table, refused: Sequence[Refusal]) -> dict[int, str]:
    """The reason of each row whose content a store has refused."""
    stores = {(refusal.event_id, refusal.digest): refusal.store for refusal in refused}
    if not stores:
        return {}
    keys = zip(events["event_id"].to_pylist(), events["digest"].to_pylist(), strict=True)
    return {row: refused_by(stores[key]) for row, key in enumerate(keys) if key in stores}


def _drop_rows(events: pa.Table, rows: Iterable[int]) -> pa.Table:
    keep = np.ones(events.num_rows, dtype=bool)
    keep[list(rows)] = False
    return events.filter(pa.array(keep))


def _resolve_stored(events: pa.Table, stored_versions: StoredVersions) -> tuple[pa.Table, int]:
    """Mark events of which a store may have another revision, and replace outdated ones by the stored revision.

    A store that does not store the winning revision (because it has no text or item) cannot detect this itself, and may
    have got the losing one from a run that died. An event equal to the stored one stays in the batch: the warehouse may
    be the only store that has it. Returns the rows, and how many of them were outdated.
    """
    outdated, revises = stored_versions.compare(events)
    marked = mark_replacing(events, revises)
    if not outdated.any():
        return marked, 0
    stored = stored_versions.read(marked.filter(pa.array(outdated)))
    return pa.concat_tables([marked.filter(pa.array(~outdated)), stored]), stored.num_rows
