"""upsert_*: write a staged batch to one sink."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from include.domain.batch import BatchRef, StagedBatch
from include.pipeline.files import events_file, vectors_file
from include.ports import BatchStore, Sink


@dataclass(frozen=True)
class UpsertPorts:
    """One sink and the staged files. ``needs_vectors``: whether the sink stores the vectors of the texts."""

    files: BatchStore
    sink: Sink
    needs_vectors: bool


def upsert(ref: BatchRef, ports: UpsertPorts) -> int:
    """Write the batch to the sink. Returns the number of events that it stores. A failure affects no other sink."""
    events = ports.files.read(events_file(ref))
    if not ports.needs_vectors:
        return ports.sink.upsert(StagedBatch(ref, events))
    hashes, vectors = read_vectors(ports.files.read(vectors_file(ref)))
    return ports.sink.upsert(StagedBatch(ref, events, hashes, vectors))


def read_vectors(table: pa.Table) -> tuple[tuple[str, ...], np.ndarray]:
    """The hashes and the float32 (n, dimension) matrix of a vectors file."""
    column = table["vector"].combine_chunks()
    flat = column.flatten().to_numpy()
    return tuple(table["text_hash"].to_pylist()), flat.reshape(table.num_rows, column.type.list_size)
