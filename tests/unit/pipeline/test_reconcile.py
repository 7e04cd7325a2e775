"""Any damage to any store is found exactly, and repaired; what is in flight is no damage."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.bootstrap import SINKS
from include.domain.batch import EVENT_SCHEMA, BatchRef, StageCounts
from include.domain.event import Event
from include.domain.inventory import inventory_table
from include.domain.offsets import Offsets
from include.embedders.memory import MemoryEmbedder
from include.errors import StagedBatchMissingError, StaleClaimError
from include.memory_servers import MemoryServers
from include.pipeline import reconcile as reconciliation
from include.pipeline.compare import ComparedStore, Problem
from include.pipeline.files import events_file
from include.pipeline.positions import ShardPosition
from include.pipeline.rebuild import Position, rebuild
from include.pipeline.reconcile import ReconcilePorts, Report, Scope, reconcile
from include.pipeline.repair import Repairer, WritePorts, claim_writes
from include.stores.inventory.memory import MemoryInventory
from tests.contract.batches import GENERATION
from tests.contract.events import event
from tests.unit.pipeline.histories import TableDict

STORES = tuple(SINKS)
FULL = ("mongo", "warehouse")
TOPIC = "events"
SCOPE = Scope(TOPIC, shards=4, wait_s=10)


class Files(TableDict):
    """``ports.BatchStore``, in which a file may be missing."""

    def read(self, name: str) -> pa.Table:
        if name not in self:
            raise StagedBatchMissingError(name)
        return self[name]


@dataclass
class Stores:
    """Every store in memory, and a clock that only sleeping moves."""

    servers: MemoryServers
    files: Files
    now: float = 0.0

    def __post_init__(self) -> None:
        warehouse = self.servers.warehouse
        self.sinks = {
            name: self.servers.open_sink(name, spec.needs, spec.needs_vectors) for name, spec in SINKS.items()
        }
        self.compared = [self._compared(name) for name in STORES]
        self.writes = WritePorts(
            self.sinks,
            frozenset({"milvus"}),
            MemoryEmbedder(GENERATION),
            warehouse.text_vectors,
            warehouse.activity,
            warehouse.ledger,
        )
        self.ports = ReconcilePorts(self.compared, warehouse.ledger, self.files, lambda: self.now, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def _compared(self, name: str) -> ComparedStore:
        inventory = MemoryInventory(lambda: self.rows(name).values(), is_full=name in FULL, chunk=3)
        return ComparedStore(name, inventory, SINKS[name].needs, inventory if name in FULL else None)

    def rows(self, name: str) -> MutableMapping[Any, Any]:
        return self.servers.rows(name)  # type: ignore[return-value]

    def key(self, name: str, event: Event) -> Any:
        return (event.user_id, event.message_id) if name == "warehouse" else event.event_id

    def fill(self, events: list[Event]) -> None:
        """Ingest the events; nothing is left to recompute."""
        from tests.contract.batches import batch_of

        for name, sink in self.sinks.items():
            sink.upsert(batch_of(events)) if name != "milvus" else self.writes.upsert(
                "milvus", batch_of(events).events, REF
            )
        self.servers.warehouse.tables.changed_users.clear()

    def contents(self) -> dict[str, Any]:
        """What each store has of each event, without bookkeeping."""
        names = [name for name in EVENT_SCHEMA.names if name not in ("offset", "published_at", "replaces")]
        return {
            store: {key: {name: row[name] for name in names} for key, row in self.rows(store).items()}
            for store in STORES
        }

    def reconcile(self, scope: Scope = SCOPE) -> Report:
        return reconcile(scope, self.ports)

    def repair(self, scope: Scope = SCOPE) -> Report:
        with claim_writes("reconcile", self.writes.ledger) as ref:
            return reconcile(scope, self.ports, repair=Repairer(self.compared, self.writes, ref).repair)

    def changed_users(self) -> set[str]:
        return {mark.key for mark in self.servers.warehouse.activity.read_changed_users()}


REF = BatchRef(TOPIC, 0, 0, 0)
_EVENTS = [
    event(
        user_id=f"u{n % 7}",
        message_id=f"m{n}",
        occurred_at=n * 1_000_000,
        text=f"text {n % 3}" if n % 4 else None,
        item_id=f"i{n % 5}" if n % 3 or not n % 4 else None,
    )
    for n in range(24)
]  # fmt: skip


def new_stores(events: list[Event] = _EVENTS) -> Stores:
    stores = Stores(MemoryServers(), Files())
    stores.fill(events)
    return stores


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
    assert (report.events, report.found, report.remaining) == (len(_EVENTS), 0, 0)
    assert report.problems() == {}
    assert all(
        total.digest == total.expected_digest and total.stored == total.expected for total in report.totals.values()
    )
    assert sum(total.stored for (_, _, store), total in report.totals.items() if store == "mongo") == len(_EVENTS)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.integers(0, len(_EVENTS) - 1), st.sampled_from(ANYTHING), max_size=8))
def test_any_damage_is_found_exactly_and_repaired(damages: dict[int, Any]) -> None:
    """Each damaged event is reported in the store that has it; a repair restores every store, a second changes nothing."""
    stores = new_stores()
    before = stores.contents()
    expected: dict[tuple[str, Problem], int] = {}
    users = set()
    for number, (damage, store) in damages.items():
        problem = damage(stores, store, _EVENTS[number])
        if problem is not None:
            expected[store, problem] = expected.get((store, problem), 0) + 1
            users.add(_EVENTS[number].user_id)
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
    stores.writes.sinks[store].upsert(batch([extra]))
    others = {(name, Problem.MISSING) for name in STORES if name != store}
    assert set(stores.reconcile().problems()) == others
    assert stores.repair().remaining == 0
    assert {stores.key(name, extra) in stores.rows(name) for name in STORES} == {True}


def batch(events: list[Event]) -> Any:
    from tests.contract.batches import batch_of

    return batch_of(events)


def test_the_higher_precedence_of_the_full_stores_wins() -> None:
    """A correction that only one of them got replaces the older content everywhere, and removes what it dropped."""
    stores = new_stores()
    corrected = msgspec.structs.replace(_EVENTS[1], version=1, text=None)
    stores.sinks["mongo"].upsert(batch([corrected]))
    assert stores.reconcile().problems() == {
        ("milvus", Problem.EXTRA): 1, ("neo4j", Problem.DIFFERENT): 1, ("warehouse", Problem.DIFFERENT): 1,
    }  # fmt: skip
    assert stores.repair().remaining == 0
    assert stores.rows("warehouse")[stores.key("warehouse", corrected)]["version"] == 1
    assert corrected.event_id not in stores.rows("milvus")


def test_a_content_that_does_not_match_its_digest_is_not_spread() -> None:
    """If both full stores have it damaged, the event stays different and is reported as remaining."""
    stores = new_stores()
    del stores.rows("neo4j")[_EVENTS[1].event_id]
    for store in FULL:
        stores.rows(store)[stores.key(store, _EVENTS[1])]["value"] = 13.0
    report = stores.repair()
    assert (report.found, report.remaining) == (1, 1)
    assert _EVENTS[1].event_id not in stores.rows("neo4j")


def test_one_shard_and_hours() -> None:
    """``shard`` compares only that shard's users; ``by_hour`` counts each hour, whose sums are those of the shards."""
    stores = new_stores()
    for victim in _EVENTS:
        _lose(stores, "mongo", victim)
    shards = [stores.reconcile(Scope(TOPIC, 4, shard, by_hour=True)) for shard in range(4)]
    assert sum(report.found for report in shards) == len(_EVENTS)
    report = stores.reconcile(Scope(TOPIC, 4, by_hour=True))
    hours = [total for (_, hour, store), total in report.totals.items() if hour is not None and store == "mongo"]
    assert sum(total.problems[Problem.MISSING] for total in hours) == len(_EVENTS)
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
        staged = batch([msgspec.structs.replace(_EVENTS[1], version=1)])
        stores.files.write(events_file(ref), staged.events)
        stores.writes.ledger.record_staged(ref, StageCounts())
        stores.sinks["mongo"].upsert(staged)
        return ref

    def test_a_batch_that_commits_meanwhile_is_no_difference(self, stores: Stores, open_ref: BatchRef) -> None:
        """Reconcile waits for it, and sees what it has written."""

        def finish(seconds: float) -> None:
            stores.sleep(seconds)
            for name in ("warehouse", "neo4j", "milvus"):
                stores.writes.upsert(name, msgspec_replace(stores, open_ref), BatchRef(TOPIC, 1, 0, 0))
            stores.writes.ledger.commit(open_ref)

        ports = ReconcilePorts(stores.compared, stores.ports.ledger, stores.files, lambda: stores.now, finish)
        report = reconcile(SCOPE, ports)
        assert (report.found, report.in_flight) == (0, 0)

    def test_a_batch_that_does_not_commit_is_left_out(self, stores: Stores, open_ref: BatchRef) -> None:
        """Only its own events are left out; other differences are found."""
        _lose(stores, "neo4j", _EVENTS[2])
        report = stores.reconcile()
        assert (report.found, report.in_flight) == (1, 1)
        assert report.problems() == {("neo4j", Problem.MISSING): 1}
        assert stores.now >= SCOPE.wait_s

    def test_an_event_that_keeps_changing_is_looked_at_again(self, stores: Stores) -> None:
        """A difference that changed since the scan is confirmed by another reading."""
        _lose(stores, "neo4j", _EVENTS[2])
        ledger = stores.writes.ledger
        changed: list[object] = []

        class ChangingLedger:
            def find_open(self, topic: str) -> Any:
                if not changed:
                    changed.append(_lose(stores, "mongo", _EVENTS[2]))
                return ledger.find_open(topic)

        ports = ReconcilePorts(stores.compared, ChangingLedger(), stores.files, lambda: stores.now, stores.sleep)  # type: ignore[arg-type]
        report = reconcile(SCOPE, ports)
        assert report.problems() == {("mongo", Problem.MISSING): 1, ("neo4j", Problem.MISSING): 1}


def msgspec_replace(stores: Stores, ref: BatchRef) -> pa.Table:
    return stores.files.read(events_file(ref))


def test_a_repair_that_dies_shows_its_users_with_the_next() -> None:
    """The users of what it wrote are not forgotten, though nothing differs any more."""
    stores = new_stores()
    _lose(stores, "neo4j", _EVENTS[2])

    def die(states: Any) -> None:
        Repairer(stores.compared, stores.writes, ref).repair(states)
        raise RuntimeError

    with pytest.raises(RuntimeError), claim_writes("reconcile", stores.writes.ledger) as ref:
        reconcile(SCOPE, stores.ports, repair=die)
    assert stores.changed_users() == set()
    assert stores.repair().found == 0
    assert stores.changed_users() == {_EVENTS[2].user_id}


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
        assert written == len(_EVENTS)
        assert stores.contents() == before
        assert stores.changed_users() == {each.user_id for each in _EVENTS}

    def test_newer_contents_stay(self) -> None:
        """Live ingestion may run beside it: an event that is newer in the target is left alone."""
        stores = new_stores()
        newer = msgspec.structs.replace(_EVENTS[1], version=3)
        stores.sinks["neo4j"].upsert(batch([newer]))
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
        assert rebuild(stores.compared[0].contents, ["neo4j"], stores.writes, position) == len(_EVENTS) - 9  # type: ignore[arg-type]
        assert stores.reconcile().found == 0
        assert self._rebuild(stores, "mongo", ["neo4j"]) == len(_EVENTS)

    def test_one_shard(self) -> None:
        """Only the events of that shard's users are written."""
        stores = new_stores()
        written = [self._rebuild(stores, "mongo", ["neo4j"], (shard, 4)) for shard in range(4)]
        assert sum(written) == len(_EVENTS)

    def _rebuild(self, stores: Stores, source: str, targets: list[str], shard: tuple[int, int] | None = None) -> int:
        contents = next(store.contents for store in stores.compared if store.name == source)
        assert contents is not None
        return rebuild(contents, targets, stores.writes, Position(stores.files, "test"), select_shard=shard)
