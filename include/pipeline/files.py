"""The names of the files that tasks pass on: one folder per batch, one folder per precompute run."""

from __future__ import annotations

from include.domain.batch import BatchRef

#: The folders of all batches.
BATCHES_FOLDER = "batches/"


def batch_folder(ref: BatchRef) -> str:
    """All files of one batch, whichever run wrote them."""
    return f"{BATCHES_FOLDER}{ref.batch_id}/"


def _claim_folder(ref: BatchRef) -> str:
    # A run that has lost its claim must not replace the files of the run that has it.
    return f"{batch_folder(ref)}{ref.epoch}/"


def events_file(ref: BatchRef) -> str:
    """The staged events: EVENT_SCHEMA."""
    return _claim_folder(ref) + "events.arrow"


def vectors_file(ref: BatchRef) -> str:
    """The vectors of the batch's distinct texts: (text_hash, vector)."""
    return _claim_folder(ref) + "vectors.arrow"


def replay_position_file(run: str, shard: int) -> str:
    """How far a replay has come in one shard: (offset)."""
    return f"replay/{run}/{shard:03d}.arrow"


#: The folders of all precompute runs.
RUNS_FOLDER = "precompute/"


def run_folder(run: str) -> str:
    """All files of one precompute run until it has published its lists."""
    return f"{RUNS_FOLDER}{run}/"


def published_file(run: str) -> str:
    """How many lists a precompute run has published: (lists)."""
    return f"{RUNS_FOLDER}published/{run}.arrow"


def model_folder(version: str) -> str:
    """All files of one trained ranking."""
    return f"ranking/{version}/"


def model_file(version: str, name: str) -> str:
    """One of the tables of ``include.ranking.tables``."""
    return f"{model_folder(version)}{name}.arrow"


def items_file(run: str) -> str:
    """The items that a precompute run ranks: (item_id, first_at, scores, vector)."""
    return f"{run_folder(run)}items.arrow"
