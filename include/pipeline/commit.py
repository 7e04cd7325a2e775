"""commit: the last step of a batch, and the only one that moves offsets. May run twice."""

from __future__ import annotations

from include.domain.batch import BatchMode, BatchRef
from include.pipeline.files import batch_folder
from include.ports import BatchStore, Ledger, Source


def commit(ref: BatchRef, ledger: Ledger, source: Source, store: BatchStore) -> None:
    """Every store has the batch: say so in the ledger, move the group's offset, drop the files.

    The ledger is the truth and comes first; the group's offset follows it and only tells the trigger. A range batch
    repeats what was ingested before and moves nothing.
    """
    ledger.commit(ref)
    if ref.mode == BatchMode.LIVE:
        source.commit(ref.shard, ref.end)
    store.delete(batch_folder(ref))
