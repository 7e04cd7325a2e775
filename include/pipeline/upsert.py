"""upsert_*: write a staged batch to one sink."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from include.domain.batch import BatchRef, StagedBatch
from include.domain.generation import Generation
from include.errors import PermanentError
from include.pipeline.files import events_file, vectors_file
from include.ports import BatchStore, Sink


@dataclass(frozen=True)
class UpsertPorts:
    """One sink and the staged files. ``generation``: that of the vectors it stores; None if it stores none."""

    files: BatchStore
    sink: Sink
    generation: Generation | None


def upsert(ref: BatchRef, ports: UpsertPorts) -> int:
    """Write the batch to the sink. Returns the number of events that it stores. A failure affects no other sink.

    Raises ``PermanentError`` if the vectors are of another generation than the sink's.
    """
    events = ports.files.read(events_file(ref))
    if ports.generation is None:
        return ports.sink.upsert(StagedBatch(ref, events))
    table = ports.files.read(vectors_file(ref))
    _check_generation(table, ports.generation)
    hashes, vectors = read_vectors(table)
    return ports.sink.upsert(StagedBatch(ref, events, hashes, vectors))


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
