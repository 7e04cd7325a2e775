"""upsert_*: write a staged batch to one sink."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from include.domain.batch import BatchRef, StagedBatch
from include.domain.generation import Generation
from include.domain.reasons import refused_by
from include.domain.refusal import Refusal, refusals_of
from include.errors import PermanentError, RefusedError, RefusedEventsError
from include.pipeline.files import events_file, vectors_file
from include.pipeline.settle import SettlePorts, settle
from include.ports import BatchStore, Ledger, Sink

#: So many events of a batch may be refused whatever their share.
_ALWAYS_ALLOWED = 10


@dataclass(frozen=True)
class UpsertPorts:
    """One sink, the staged files and the ledger. ``generation``: that of the vectors it stores; None if it stores none.

    ``max_refused_percent``: a store that refuses more of a batch must itself be at fault.
    """

    files: BatchStore
    sink: Sink
    generation: Generation | None
    ledger: Ledger
    max_refused_percent: int = 5
    #: For a sink that does not store every event.
    settle: SettlePorts | None = None


def upsert(ref: BatchRef, ports: UpsertPorts) -> int:
    """Write the batch to the sink. Returns the number of events that it stores. A failure affects no other sink.

    Events that the store refuses are recorded, and everything else is written; then ``RefusedEventsError`` is raised,
    and the next run of the shard stages the batch without them. Raises ``PermanentError`` if the vectors are of another
    generation than the sink's.
    """
    batch = _read_batch(ref, ports)
    try:
        stored = ports.sink.upsert(batch)
    except RefusedError as error:
        _record_refused(batch, ports, str(error))
        raise
    if ports.settle is not None and not ports.ledger.is_current(ref):
        # This run was taken for dead, and later runs may have been faster.
        settle(ref, batch.events, ports.settle)
    return stored


def _read_batch(ref: BatchRef, ports: UpsertPorts) -> StagedBatch:
    events = ports.files.read(events_file(ref))
    if ports.generation is None:
        return StagedBatch(ref, events)
    table = ports.files.read(vectors_file(ref))
    _check_generation(table, ports.generation)
    return StagedBatch(ref, events, *read_vectors(table))


def _record_refused(batch: StagedBatch, ports: UpsertPorts, error: str) -> None:
    """Find the events that the store refuses and record them. Raises ``RefusedEventsError``, or the store's own error
    if it refuses too many, or none of them alone.
    """
    name, rows = ports.sink.name, batch.events.num_rows
    limit = max(_ALWAYS_ALLOWED, rows * ports.max_refused_percent // 100)
    refused = _find_refused(batch, ports.sink, limit)
    if not refused:
        return
    if len(refused) > limit:
        raise PermanentError(
            f"{name} refuses more than {limit:,} of {rows:,} events, so the store rather than single events must be at "
            f"fault: {error}. To make dead letters of them, raise millrace_max_reject_percent "
            "(MILLRACE_MAX_REJECT_PERCENT in the environment)"
        )
    ports.ledger.record_refused(batch.ref, refused)
    raise RefusedEventsError(
        f"{name} refuses {len(refused):,} of {rows:,} events: {error}. Nothing is lost: the shard's next run makes "
        f"dead letters of them, with the reason {refused_by(name)}"
    )


def _find_refused(batch: StagedBatch, sink: Sink, limit: int) -> list[Refusal]:
    """Write the batch in halves until only the refused events are left; stops when there are more than ``limit``."""
    refused: list[Refusal] = []
    parts = [batch.events]
    while parts and len(refused) <= limit:
        part = parts.pop()
        half = part.num_rows // 2
        for each in [part.slice(0, half), part.slice(half)] if half else [part]:
            try:
                sink.upsert(replace(batch, events=each))
            except RefusedError:
                if each.num_rows == 1:
                    refused += refusals_of(each, sink.name)
                else:
                    parts.append(each)
    return refused


def _check_generation(vectors: pa.Table, expected: Generation) -> None:
    stamp = (vectors.schema.metadata or {}).get(b"generation", b"none").decode()
    if stamp != expected.name:
        raise PermanentError(
            f"the batch has vectors of the generation {stamp}, but {expected.name} is set by now: the shard's next run "
            "embeds it again"
        )


def read_vectors(table: pa.Table) -> tuple[tuple[str, ...], np.ndarray]:
    """The hashes and the float32 (n, dimension) matrix of a vectors file."""
    column = table["vector"].combine_chunks()
    flat = column.flatten().to_numpy()
    return tuple(table["text_hash"].to_pylist()), flat.reshape(table.num_rows, column.type.list_size)
