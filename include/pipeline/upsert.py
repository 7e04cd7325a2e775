"""upsert_*: give a staged batch to one sink."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from include.domain.batch import BatchRef, StagedBatch
from include.pipeline.files import events_file, vectors_file
from include.ports import BatchStore, Sink


def upsert(ref: BatchRef, store: BatchStore, sink: Sink) -> int:
    """How many of the batch's events the sink is for. A failure leaves the other sinks alone."""
    hashes, vectors = vectors_of(store.read(vectors_file(ref)))
    return sink.upsert(StagedBatch(ref, store.read(events_file(ref)), hashes, vectors))


def vectors_of(table: pa.Table) -> tuple[tuple[str, ...], np.ndarray]:
    """The hashes and the float32 (n, dimension) matrix of a vectors file."""
    column = table["vector"].combine_chunks()
    flat = column.flatten().to_numpy()
    return tuple(table["text_hash"].to_pylist()), flat.reshape(table.num_rows, column.type.list_size)
