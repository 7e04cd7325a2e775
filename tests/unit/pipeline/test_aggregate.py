"""The aggregation in memory: how many hours are recounted at once, and what remains after a failure."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from include.domain.batch import BatchRef, StagedBatch, events_table
from include.errors import TransientError
from include.pipeline.aggregate import HOURS_PER_SLICE, aggregate_touched
from include.stores.memory_tables import MemoryTables
from include.stores.memory_warehouse import MemoryEngagement, MemoryWarehouseSink
from tests.contract.events import event, record

HOUR = 3_600_000


class FailingEngagement(MemoryEngagement):
    """Records how many hours each recount has, and fails in the recount with this number, counted from 1."""

    def __init__(self, tables: MemoryTables, failing: int) -> None:
        super().__init__(tables)
        self.recounts: list[int] = []
        self._failing = failing

    def recount(self, hours: Sequence[str]) -> int:
        self.recounts.append(len(hours))
        if len(self.recounts) == self._failing:
            raise TransientError("the warehouse is unavailable")
        return super().recount(hours)


def test_a_backlog_of_hours_is_recounted_in_slices() -> None:
    """No statement has more hours than fit into its timeout, and slices that are done are not recounted again."""
    tables = MemoryTables()
    events = [event(message_id=str(hour), occurred_at=hour * HOUR) for hour in range(2 * HOURS_PER_SLICE + 1)]
    table = events_table((record(offset), event) for offset, event in enumerate(events))
    MemoryWarehouseSink(tables).upsert(StagedBatch(BatchRef("events", 0, 0, 1), table))
    engagement = FailingEngagement(tables, failing=2)
    with pytest.raises(TransientError):
        aggregate_touched(engagement)
    assert len(engagement.read_touched_hours()) == HOURS_PER_SLICE + 1
    assert aggregate_touched(engagement) == {"hours": HOURS_PER_SLICE + 1, "rows": HOURS_PER_SLICE + 1}
    assert engagement.recounts == [HOURS_PER_SLICE, HOURS_PER_SLICE, HOURS_PER_SLICE, 1]
    assert engagement.read_touched_hours() == []
    assert len(tables.engagement) == len(events)
