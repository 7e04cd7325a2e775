"""A store that was lost gets its events back from one that has all of them."""

from __future__ import annotations

import msgspec
import pytest

from include.pipeline.rebuild import Position, rebuild
from tests.contract.batches import batch_of
from tests.unit.pipeline.memory_stores import EVENTS, FULL, STORES, Stores, new_stores


class TestRebuild:
    """A store is filled again from one that has every event."""

    @pytest.mark.parametrize("source", FULL)
    @pytest.mark.parametrize("target", STORES)
    def test_an_emptied_store_gets_every_event_back(self, source: str, target: str) -> None:
        """Its contents are what they were, and the users count as changed."""
        if source == target:
            return
        stores = new_stores()
        before = stores.contents()
        stores.rows(target).clear()
        written = self._rebuild(stores, source, [target])
        assert written == len(EVENTS)
        assert stores.contents() == before
        assert stores.changed_users() == {each.user_id for each in EVENTS}

    def test_newer_contents_stay(self) -> None:
        """Live ingestion may run beside it: an event that is newer in the target is left alone."""
        stores = new_stores()
        newer = msgspec.structs.replace(EVENTS[1], version=3)
        stores.sinks["neo4j"].upsert(batch_of([newer]))
        self._rebuild(stores, "mongo", ["neo4j"])
        assert stores.rows("neo4j")[newer.event_id]["version"] == 3

    def test_it_goes_on_where_it_stopped(self) -> None:
        """After a crash only the chunks that not every target had are written again; the next rebuild reads all."""
        stores = new_stores()
        stores.rows("neo4j").clear()
        position = Position(stores.files, "test")

        def die(events: int, last: str) -> None:
            if events >= 9:
                raise RuntimeError

        with pytest.raises(RuntimeError):
            rebuild(stores.compared[0].contents, ["neo4j"], stores.writes, position, progress=die)  # type: ignore[arg-type]
        assert rebuild(stores.compared[0].contents, ["neo4j"], stores.writes, position) == len(EVENTS) - 9  # type: ignore[arg-type]
        assert stores.reconcile().found == 0
        assert self._rebuild(stores, "mongo", ["neo4j"]) == len(EVENTS)

    def test_one_shard(self) -> None:
        """Only the events of that shard's users are written."""
        stores = new_stores()
        written = [self._rebuild(stores, "mongo", ["neo4j"], (shard, 4)) for shard in range(4)]
        assert sum(written) == len(EVENTS)

    def _rebuild(self, stores: Stores, source: str, targets: list[str], shard: tuple[int, int] | None = None) -> int:
        contents = next(store.contents for store in stores.compared if store.name == source)
        assert contents is not None
        return rebuild(contents, targets, stores.writes, Position(stores.files, "test"), select_shard=shard)
