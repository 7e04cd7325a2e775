"""commit: the last step of a batch, and the only one that moves offsets. May run twice."""

from __future__ import annotations

from dataclasses import dataclass

from include.domain.batch import BatchMode, BatchRef
from include.pipeline.files import batch_folder
from include.ports import BatchStore, Ledger, Source


@dataclass(frozen=True)
class CommitPorts:
    """What ``commit`` writes to."""

    ledger: Ledger
    source: Source
    files: BatchStore


def commit(ref: BatchRef, ports: CommitPorts) -> None:
    """Record in the ledger that every store has the batch, move the group's offset, delete the files.

    The ledger is the source of truth and comes first; the group's offset follows it and only informs the trigger. A
    range batch replays messages and moves nothing.
    """
    ports.ledger.commit(ref)
    if ref.mode == BatchMode.LIVE:
        ports.source.commit(ref.shard, ref.end)
    ports.files.delete(batch_folder(ref))
