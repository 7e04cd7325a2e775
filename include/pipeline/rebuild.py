"""rebuild: write the events of one store of full contents to others, for when a store was lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from include.domain.identity import shard_of
from include.errors import StagedBatchMissingError
from include.pipeline.repair import WritePorts, claim_writes
from include.ports import BatchStore, Contents

#: Called after each chunk with the number of events written and the last event id.
type Progress = Callable[[int, str], None]


def rebuild(
    contents: Contents,
    targets: Sequence[str],
    ports: WritePorts,
    position: Position,
    *,
    select_shard: tuple[int, int] | None = None,
    progress: Progress = lambda events, last: None,
) -> int:
    """Upsert every event after ``position`` into the targets. Returns the number of events written.

    ``select_shard``: (shard, number of shards), to write only the events of that shard's users. May run beside
    ingestion, and twice: in each store the higher precedence wins.
    """
    written = 0
    with claim_writes("rebuild", ports.ledger) as ref:
        for chunk in contents.scan_contents(position.read()):
            last = chunk["event_id"][-1].as_py()
            events = chunk if select_shard is None else _of_shard(chunk, *select_shard)
            if events.num_rows:
                ports.activity.mark_changed_users(events["user_id"].unique().to_pylist(), ref.batch_id)
                for name in targets:
                    ports.upsert(name, events, ref)
            written += events.num_rows
            position.write(last)
            progress(written, last)
    position.clear()
    return written


def _of_shard(events: pa.Table, shard: int, shards: int) -> pa.Table:
    return events.filter(
        pa.array(np.array([shard_of(u, shards) == shard for u in events["user_id"].to_pylist()], bool))
    )


class Position:
    """How far a rebuild has come: the last event id that every target has, in a file between tasks."""

    def __init__(self, files: BatchStore, name: str, after: str | None = None) -> None:
        self._files = files
        self._name = f"rebuild/{name}/position.arrow"
        self._after = after

    def read(self) -> str:
        """Where to go on; ``""`` is the beginning."""
        if self._after is not None:
            return self._after
        try:
            return str(self._files.read(self._name)["event_id"][0].as_py())
        except StagedBatchMissingError:
            return ""

    def write(self, event_id: str) -> None:
        """Record that every target has the events up to this one."""
        self._files.write(self._name, pa.table({"event_id": [event_id]}))

    def clear(self) -> None:
        """Begin at the beginning next time."""
        self._files.delete(self._name)
