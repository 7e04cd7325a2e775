"""commit: the last step of a batch, and the only one that moves offsets. May run twice."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from include.domain.batch import BatchMode, BatchRef
from include.pipeline.files import batch_folder, events_file
from include.pipeline.settle import SettlePorts, settle
from include.ports import BatchStore, Ledger, Source

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CommitPorts:
    """What ``commit`` writes to."""

    ledger: Ledger
    source: Source
    files: BatchStore
    open_settle: Callable[[], AbstractContextManager[SettlePorts]]


def commit(ref: BatchRef, ports: CommitPorts) -> None:
    """Record in the ledger that every store has the batch, move the group's offset, delete the files.

    If another run may have written the same events meanwhile, settle first what it left behind.

    The ledger is the source of truth and comes first; the group's offset follows it and only informs the trigger. A
    range batch replays messages and moves nothing.
    """
    if ports.ledger.needs_settling(ref):
        with ports.open_settle() as settle_ports:
            changed = settle(ref, ports.files.read(events_file(ref)), settle_ports)
        if changed:
            log.info("%s: %s events got a newer content from another run", ref.batch_id, changed)
    ports.ledger.commit(ref)
    if ref.mode == BatchMode.LIVE:
        ports.source.commit(ref.shard, ref.end)
    ports.files.delete(batch_folder(ref))
