"""The names of the files that travel between tasks: a folder a batch, a folder a precompute run."""

from __future__ import annotations

from include.domain.batch import BatchRef


def batch_folder(ref: BatchRef) -> str:
    """Everything of one batch."""
    return f"batches/{ref.batch_id}/"


def events_file(ref: BatchRef) -> str:
    """The staged events, EVENT_SCHEMA."""
    return batch_folder(ref) + "events.arrow"


def vectors_file(ref: BatchRef) -> str:
    """The vectors of the batch's distinct texts: text_hash, vector."""
    return batch_folder(ref) + "vectors.arrow"


def run_folder(run: str) -> str:
    """Everything of one precompute run."""
    return f"precompute/{run}/"
