"""Any damage to any store is found exactly, and repaired; what is in flight is no damage."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.domain.batch import EVENT_SCHEMA, BatchRef, StageCounts
from include.domain.event import Event
from include.domain.inventory import inventory_table
from include.domain.offsets import Offsets
from include.errors import StaleClaimError
from include.memory_servers import MemoryServers
from include.pipeline import reconcile as reconciliation
from include.pipeline.compare import ComparedStore, Problem
from include.pipeline.files import events_file
from include.pipeline.positions import MessageCounts, ShardPosition
from include.pipeline.reconcile import ReconcilePorts, Scope, reconcile
from include.pipeline.repair import Repairer, claim_writes
from tests.contract.batches import batch_of
from tests.contract.events import event
from tests.unit.pipeline.memory_stores import EVENTS, FULL, SCOPE, STORES, TOPIC, Files, Stores, new_stores


def _lose(stores: Stores, store: str, victim: Event) -> Problem | None:
    return None if stores.rows(store).pop(stores.key(store, victim), None) is None else Problem.MISSING


def _change(stores: Stores, store: str, victim: Event) -> Problem | None:
    row = stores.rows(store).get(stores.key(store, victim))
    if row is None:
        return None
    row["digest"] = "0" * 32
    return Problem.DIFFERENT


def _move(stores: Stores, store: str, victim: Event) -> Problem | None:
    row = stores.rows(store).get(stores.key(store, victim))
    if row is None:
        return None
    row["occurred_at"] += 1
    return Problem.DIFFERENT


def _invent(stores: Stores, store: str, victim: Event) -> Problem | None:
    extra = msgspec.structs.replace(victim, message_id=f"{victim.message_id} extra", text="t", item_id="i")
    row = {name: getattr(extra, name, None) for name in EVENT_SCHEMA.names}
    stores.rows(store)[stores.key(store, extra)] = row
    return Problem.EXTRA


DAMAGES = (_lose, _change, _move)
#: A row that only one store has is extra there; in a full store it is an event that the others lack.
ANYTHING = [*((damage, store) for damage in DAMAGES for store in STORES), (_invent, "milvus"), (_invent, "neo4j")]


def test_equal_stores_have_no_difference() -> None:
    """Nothing is reported, and the digests of what is stored and of what should be are equal."""
    report = new_stores().reconcile()
    assert (report.events, report.found, report.remaining) == (len(EVENTS), 0, 0)
    assert report.problems() == {}
    assert all(
        total.digest == total.expected_digest and total.stored == total.expected for total in report.totals.values()
    )
    assert sum(total.stored for (_, _, store), total in report.totals.items() if store == "mongo") == len(EVENTS)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.integers(0, len(EVENTS) - 1), st.sampled_from(ANYTHING), max_size=8))
def test_any_damage_is_found_exactly_and_repaired(damages: dict[int, Any]) -> None:
    """Each damaged event is reported in the store that has it; a repair restores it, a second changes nothing."""
    stores = new_stores()
    before = stores.contents()
    expected: dict[tuple[str, Problem], int] = {}
    users = set()
    for number, (damage, store) in damages.items():
        problem = damage(stores, store, EVENTS[number])
        if problem is not None:
            expected[store, problem] = expected.get((store, problem), 0) + 1
            users.add(EVENTS[number].user_id)
    assert stores.reconcile().problems() == expected
    report = stores.repair()
    assert (report.problems(), report.found, report.remaining) == (expected, sum(expected.values()), 0)
    assert stores.contents() == before
    assert stores.changed_users() == users
    assert stores.repair().found == 0
    assert stores.changed_users() == users


@pytest.mark.parametrize("store", FULL)
def test_an_event_that_only_one_full_store_has_is_given_to_the_others(store: str) -> None:
    """It counts as an event: the other stores lack it."""
    stores = new_stores()
    extra = event(user_id="u1", message_id="extra", text="t")
    stores.writes.sinks[store].upsert(batch_of([extra]))
    others = {(name, Problem.MISSING) for name in STORES if name != store}
    assert set(stores.reconcile().problems()) == others
    assert stores.repair().remaining == 0
    assert {stores.key(name, extra) in stores.rows(name) for name in STORES} == {True}


def test_the_higher_precedence_of_the_full_stores_wins() -> None:
    """A correction that only one of them got replaces the older content everywhere, and removes what it dropped."""
    stores = new_stores()
    corrected = msgspec.structs.replace(EVENTS[1], version=1, text=None)
    stores.sinks["mongo"].upsert(batch_of([corrected]))
    assert stores.reconcile().problems() == {
        ("milvus", Problem.EXTRA): 1, ("neo4j", Problem.DIFFERENT): 1, ("warehouse", Problem.DIFFERENT): 1,
    }  # fmt: skip
    assert stores.repair().remaining == 0
    assert stores.rows("warehouse")[stores.key("warehouse", corrected)]["version"] == 1
    assert corrected.event_id not in stores.rows("milvus")


def test_a_content_that_does_not_match_its_digest_is_not_spread() -> None:
    """If both full stores have it damaged, the event stays different and is reported as remaining."""
    stores = new_stores()
    del stores.rows("neo4j")[EVENTS[1].event_id]
    for store in FULL:
        stores.rows(store)[stores.key(store, EVENTS[1])]["value"] = 13.0
    report = stores.repair()
    assert (report.found, report.remaining) == (1, 1)
    assert EVENTS[1].event_id not in stores.rows("neo4j")


def test_one_shard_and_hours() -> None:
    """``shard`` compares only that shard's users; ``by_hour`` counts each hour, whose sums are those of the shards."""
    stores = new_stores()
    for victim in EVENTS:
        _lose(stores, "mongo", victim)
    shards = [stores.reconcile(Scope(TOPIC, 4, shard, by_hour=True)) for shard in range(4)]
    assert sum(report.found for report in shards) == len(EVENTS)
    report = stores.reconcile(Scope(TOPIC, 4, by_hour=True))
    hours = [total for (_, hour, store), total in report.totals.items() if hour is not None and store == "mongo"]
    assert sum(total.problems[Problem.MISSING] for total in hours) == len(EVENTS)
    assert len(hours) > 4


class TestInFlight:
    """A batch whose stores do not all have it yet."""

    @pytest.fixture
    def stores(self) -> Stores:
        return new_stores()

    @pytest.fixture
    def open_ref(self, stores: Stores) -> BatchRef:
        """A claimed batch, of whose event only MongoDB has a newer content."""
        ref = stores.writes.ledger.claim(TOPIC, 0, Offsets(0, 10), 10)
        assert ref is not None
        staged = batch_of([msgspec.structs.replace(EVENTS[1], version=1)])
        stores.files.write(events_file(ref), staged.events)
        stores.writes.ledger.record_staged(ref, StageCounts())
        stores.sinks["mongo"].upsert(staged)
        return ref

    def test_a_batch_that_commits_meanwhile_is_no_difference(self, stores: Stores, open_ref: BatchRef) -> None:
        """Reconcile waits for it, and sees what it has written."""

        def finish(seconds: float) -> None:
            stores.sleep(seconds)
            for name in ("warehouse", "neo4j", "milvus"):
                stores.writes.upsert(name, _staged(stores, open_ref), BatchRef(TOPIC, 1, 0, 0))
            stores.writes.ledger.commit(open_ref)

        ports = ReconcilePorts(stores.compared, stores.ports.ledger, stores.files, lambda: stores.now, finish)
        report = reconcile(SCOPE, ports)
        assert (report.found, report.in_flight) == (0, 0)

    def test_a_batch_that_does_not_commit_is_left_out(self, stores: Stores, open_ref: BatchRef) -> None:
        """Only its own events are left out; other differences are found."""
        _lose(stores, "neo4j", EVENTS[2])
        report = stores.reconcile()
        assert (report.found, report.in_flight) == (1, 1)
        assert report.problems() == {("neo4j", Problem.MISSING): 1}
        assert stores.now >= SCOPE.wait_s

    def test_an_event_that_keeps_changing_is_looked_at_again(self, stores: Stores) -> None:
        """A difference that changed since the scan is confirmed by another reading."""
        _lose(stores, "neo4j", EVENTS[2])
        ledger = stores.writes.ledger
        changed: list[object] = []

        class ChangingLedger:
            def find_open(self, topic: str) -> Any:
                if not changed:
                    changed.append(_lose(stores, "mongo", EVENTS[2]))
                return ledger.find_open(topic)

        ports = ReconcilePorts(stores.compared, ChangingLedger(), stores.files, lambda: stores.now, stores.sleep)  # type: ignore[arg-type]
        report = reconcile(SCOPE, ports)
        assert report.problems() == {("mongo", Problem.MISSING): 1, ("neo4j", Problem.MISSING): 1}


def _staged(stores: Stores, ref: BatchRef) -> pa.Table:
    return stores.files.read(events_file(ref))


def test_a_repair_that_dies_shows_its_users_with_the_next() -> None:
    """The users of what it wrote are not forgotten, though nothing differs any more."""
    stores = new_stores()
    _lose(stores, "neo4j", EVENTS[2])

    def die(states: Any) -> None:
        Repairer(stores.compared, stores.writes, ref).repair(states)
        raise RuntimeError

    with pytest.raises(RuntimeError), claim_writes("reconcile", stores.writes.ledger) as ref:
        reconcile(SCOPE, stores.ports, repair=die)
    assert stores.changed_users() == set()
    assert stores.repair().found == 0
    assert stores.changed_users() == {EVENTS[2].user_id}


def test_a_second_repair_stops_the_first() -> None:
    """Of two repairs at once only the last may finish."""
    stores = new_stores()
    with pytest.raises(StaleClaimError), claim_writes("reconcile", stores.writes.ledger):
        stores.repair()


class _SyntheticStore:
    """``rows`` events in order of id, made when they are read; every ``lost``-th is missing."""

    def __init__(self, rows: int, lost: int = 0) -> None:
        self._rows, self._lost = rows, lost

    def scan(self, after: str = "") -> Iterator[pa.Table]:
        for start in range(0, self._rows, 200):
            numbers = (n for n in range(start, start + 200) if not self._lost or n % self._lost)
            yield inventory_table((f"{n:032x}", f"u{n % 50}", 0, 0, "d", True, True) for n in numbers)

    def read(self, keys: pa.Table) -> pa.Table:
        ids = [i for i in keys["event_id"].to_pylist() if not self._lost or int(i, 16) % self._lost]
        return inventory_table((i, f"u{int(i, 16) % 50}", 0, 0, "d", True, True) for i in ids)

    def close(self) -> None: ...


def _peak(rows: int) -> int:
    full: Any = _SyntheticStore(rows)
    stores = [ComparedStore("a", full, None, full), ComparedStore("b", _SyntheticStore(rows, lost=3))]
    ports = ReconcilePorts(stores, MemoryServers().warehouse.ledger, Files())
    tracemalloc.start()
    report = reconcile(SCOPE, ports)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (report.events, report.found) == (rows, -(-rows // 3))
    return peak


def test_memory_does_not_grow_with_the_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five times as many events, a third of them missing, need no more memory."""
    monkeypatch.setattr(reconciliation, "CHUNK", 200)
    _peak(2_000)  # what is imported and cached on first use
    assert _peak(10_000) < 1.1 * _peak(2_000)


@pytest.mark.parametrize(
    ("group", "ledger", "complaint"),
    [
        (None, None, None),
        (5, 5, None),
        (4, 5, None),
        (None, 5, None),
        (6, 5, "the group has committed 6, but the ledger only 5"),
        (3, None, "the group has committed 3, but the ledger only 2"),
        (9, 11, "the ledger has committed 11, but the partition ends at 10"),
        (1, 1, "the ledger has committed 1, but the partition begins at 2"),
    ],
)
def test_positions_are_compared(group: int | None, ledger: int | None, complaint: str | None) -> None:
    """The group may be behind the ledger, never ahead; the ledger's position is one that the partition has."""
    assert ShardPosition(0, group, ledger, Offsets(2, 10)).problem == complaint


def test_every_delivered_message_is_accounted_for() -> None:
    """It is a valid event or a dead letter."""
    assert MessageCounts(delivered=10, valid=7, rejected=3).problem is None
    assert MessageCounts(delivered=10, valid=7, rejected=2).problem == (
        "the ledger counts 10 messages, but 7 valid events and 2 dead letters"
    )
