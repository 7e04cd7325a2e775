"""Reconcile and rebuild on the real servers: planted damage is found exactly, and repaired."""

from __future__ import annotations

import pytest

from include.pipeline.compare import Problem
from include.pipeline.rebuild import Position, rebuild
from tests.contract.batches import batch_of
from tests.contract.event_stores import Stores

pytestmark = pytest.mark.servers("mongo", "milvus", "neo4j", "postgres")


def test_planted_damage_is_found_exactly_and_repaired(stores: Stores) -> None:
    """Each store's missing, different and extra row is reported in that store; after the repair nothing differs, the
    digests are what they were, and the users of the events count as changed.
    """
    clean = stores.reconcile()
    assert (clean.events, clean.found) == (30, 0)
    stores.damage()
    expected = {
        ("mongo", Problem.MISSING): 2, ("mongo", Problem.DIFFERENT): 1,
        ("milvus", Problem.MISSING): 2, ("milvus", Problem.DIFFERENT): 1, ("milvus", Problem.EXTRA): 1,
        ("neo4j", Problem.MISSING): 2, ("neo4j", Problem.DIFFERENT): 1, ("neo4j", Problem.EXTRA): 1,
        ("warehouse", Problem.MISSING): 2, ("warehouse", Problem.DIFFERENT): 1,
    }  # fmt: skip
    assert stores.reconcile().problems() == expected
    report = stores.reconcile(repair=True)
    assert (report.problems(), report.remaining) == (expected, 0)
    assert stores.changed_users() >= {stores.event(n).user_id for n in (2, 5, 8, 11, 14, 17, 20, 23, 50, 51)}
    assert stores.reconcile().found == 0
    _remove(stores, 50, 51)
    after = stores.reconcile()
    assert (after.found, stores.digests(after)) == (0, stores.digests(clean))


def _remove(stores: Stores, *numbers: int) -> None:
    """Delete these events everywhere."""
    events = batch_of(
        [
            stores.event(n, text="t", item_id=None)
            if n == 50
            else stores.event(n, text=None, item_id=f"{stores.prefix}i0")
            for n in numbers
        ]
    ).events
    for sink in stores.writes.sinks.values():
        sink.delete(events.select(["event_id", "user_id", "version", "digest"]))


@pytest.mark.parametrize(("source", "targets"), [("mongo", ["milvus", "neo4j", "warehouse"]), ("warehouse", ["mongo"])])
def test_an_emptied_store_is_rebuilt(stores: Stores, source: str, targets: list[str]) -> None:
    """From a store of full contents, every other one gets back what it had: the digests are equal."""
    before = stores.reconcile()
    for name in targets:
        stores.empty(name)
    contents = next(store.contents for store in stores.compared if store.name == source)
    assert contents is not None
    for _ in range(2):
        assert rebuild(contents, targets, stores.writes, Position(stores.files, "test")) == 30
    after = stores.reconcile()
    assert (after.found, stores.digests(after)) == (0, stores.digests(before))
    assert stores.changed_users() == {stores.event(number).user_id for number in range(7)}
