"""Staged batches for the contract suites of sinks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from include.domain.batch import EVENT_SCHEMA, BatchRef, StagedBatch, events_table
from include.domain.event import Event
from include.domain.generation import Generation
from include.domain.identity import text_hash
from tests.contract.events import record

GENERATION = Generation("test", "1", 8)
SHARDS = 4


def vector_of(text: str) -> np.ndarray:
    """A vector of length one, different for every text."""
    seed = int(text_hash(text)[:8], 16)
    vector = np.random.default_rng(seed).standard_normal(GENERATION.dimension).astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector))


def batch_of(events: Sequence[Event], *, replaces: bool = False) -> StagedBatch:
    """The events as staging writes them, every row with this value of ``replaces``."""
    table = events_table([(record(offset), event) for offset, event in enumerate(events)])
    column = EVENT_SCHEMA.get_field_index("replaces")
    table = table.set_column(column, EVENT_SCHEMA.field("replaces"), pa.array([replaces] * len(events), pa.bool_()))
    texts = sorted({event.text for event in events if event.text is not None})
    vectors = (
        np.stack([vector_of(text) for text in texts]) if texts else np.empty((0, GENERATION.dimension), np.float32)
    )
    return StagedBatch(BatchRef("events", 0, 0, len(events)), table, tuple(map(text_hash, texts)), vectors)


def newest(contents: Iterable[Event]) -> dict[str, Event]:
    """The winning revision of each event, by event id: what a store must have once it has seen all of ``contents``."""
    winners: dict[str, Event] = {}
    for event in contents:
        other = winners.get(event.event_id)
        if other is None or event.precedence > other.precedence:
            winners[event.event_id] = event
    return winners
