"""settle: remove what runs that overlapped have left behind, in stores that cannot compare what they do not store.

A run writes what the warehouse had when it staged. If another run brings a newer revision in the meantime, a store may
get the older one last, and keep it if the newer one has no text or item. So who wrote last asks the warehouse again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from include.domain.batch import BatchRef, StagedBatch
from include.domain.generation import Generation
from include.domain.precedence import mark_replacing
from include.ports import Sink, StoredVersions, TextVectors


@dataclass(frozen=True)
class SettlePorts:
    """``sinks``: those that do not store every event, each with whether it needs vectors."""

    stored_versions: StoredVersions
    text_vectors: TextVectors
    generation: Generation
    sinks: Sequence[tuple[Sink, bool]]


def settle(ref: BatchRef, events: pa.Table, ports: SettlePorts) -> int:
    """Write the standing content of these events again, until the warehouse has none that is newer.

    After a write the warehouse is always asked once more: what arrives later comes from a run that settles later.
    Returns how many events had a newer content.
    """
    pending, newer = _replace_outdated(events, ports.stored_versions)
    changed = newer
    while True:
        _write(ref, pending, ports)
        pending, newer = _replace_outdated(pending, ports.stored_versions)
        if not newer:
            return changed
        changed += newer


def _replace_outdated(events: pa.Table, stored_versions: StoredVersions) -> tuple[pa.Table, int]:
    """The events with the warehouse's contents in place of older ones, and how many these are."""
    outdated, _ = stored_versions.compare(events)
    if not outdated.any():
        return events, 0
    standing = stored_versions.read(events.filter(pa.array(outdated)))
    return pa.concat_tables([events.filter(pa.array(~outdated)), standing]), standing.num_rows


def _write(ref: BatchRef, events: pa.Table, ports: SettlePorts) -> None:
    marked = mark_replacing(events, np.ones(events.num_rows, dtype=bool))
    for sink, needs_vectors in ports.sinks:
        sink.upsert(_with_vectors(ref, marked, ports) if needs_vectors else StagedBatch(ref, marked))


def _with_vectors(ref: BatchRef, events: pa.Table, ports: SettlePorts) -> StagedBatch:
    """Without events whose text has no vector yet: the run that brought them writes it."""
    hashes = events["text_hash"].to_pylist()
    stored = ports.text_vectors.get(ports.generation, sorted({each for each in hashes if each is not None}))
    known = pa.array([each is None or each in stored for each in hashes], pa.bool_())
    empty = np.empty((0, ports.generation.dimension), dtype=np.float32)
    vectors = np.stack(list(stored.values())) if stored else empty
    return StagedBatch(ref, events.filter(known), tuple(stored), vectors)
