"""The ports of the warehouse: one suite for the implementation in memory and the one on PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from include.bootstrap import SINKS
from include.domain.batch import BatchMode, BatchRef, StagedBatch, events_table
from include.domain.event import Event
from include.domain.generation import Generation
from include.domain.mark import Mark
from include.domain.precedence import mark_replacing
from include.ports import Engagement, Ledger, Sink, StoredVersions, TextVectors, UserActivity
from include.settings import WarehouseSettings
from include.sinks.warehouse import COLUMNS, WarehouseSink
from include.stores.memory_warehouse import MemoryWarehouse, MemoryWarehouseSink
from include.stores.warehouse import user_activity
from include.stores.warehouse.schema import SQL
from include.stores.warehouse.warehouse import Warehouse
from tests.contract.events import event, record
from tests.contract.probes import WarehouseProbe
from tests.contract.processes import wait_until
from tests.contract.sink_suite import ServerSinkSuite, Subject

GENERATION = Generation("test", "1", 2)
HOUR = 3_600_000
_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@dataclass(frozen=True)
class WarehouseUnderTest:
    """One warehouse, behind all of its ports."""

    ports: Warehouse | MemoryWarehouse
    sink: Sink

    @property
    def ledger(self) -> Ledger:
        return self.ports.ledger

    @property
    def stored_versions(self) -> StoredVersions:
        return self.ports.stored_versions

    @property
    def text_vectors(self) -> TextVectors:
        return self.ports.text_vectors

    @property
    def engagement(self) -> Engagement:
        return self.ports.engagement

    @property
    def activity(self) -> UserActivity:
        return self.ports.activity

    def ingest(self, *events: Event, start: int = 0) -> BatchRef:
        """Store ``events`` as one committed live batch."""
        ref = self.ledger.claim_range(BatchRef("events", 0, start, start + 1))
        self.sink.upsert(batch_of(ref, *events))
        self.ledger.commit(ref)
        return ref

    def recount_touched(self) -> list[str]:
        """Recount the touched hours and clear their marks. Returns the hours."""
        marks = self.engagement.read_touched_hours()
        self.engagement.recount([mark.key for mark in marks])
        self.engagement.clear_hours(marks)
        return [mark.key for mark in marks]


def batch_of(ref: BatchRef, *events: Event, replaces: bool = False) -> StagedBatch:
    table = events_table((record(offset), event) for offset, event in enumerate(events))
    return StagedBatch(ref, mark_replacing(table, np.full(len(events), replaces)))


@pytest.fixture(params=["memory", pytest.param("server", marks=pytest.mark.servers("postgres"))])
def warehouse(request: pytest.FixtureRequest) -> Iterator[WarehouseUnderTest]:
    """An empty warehouse."""
    if request.param == "memory":
        memory = MemoryWarehouse()
        yield WarehouseUnderTest(memory, MemoryWarehouseSink(memory.tables))
        return
    settings = WarehouseSettings(request.getfixturevalue("warehouse_dsn"))
    with closing(Warehouse(settings)) as opened, closing(WarehouseSink(settings)) as sink:
        yield WarehouseUnderTest(opened, sink)


class TestWarehouseSink(ServerSinkSuite):
    """The common suite on the server."""

    pytestmark = pytest.mark.servers("postgres")

    @pytest.fixture
    def subject(self, warehouse_dsn: str, unique: str) -> Iterator[Subject]:
        """A sink on an empty database."""
        settings = WarehouseSettings(warehouse_dsn)
        with closing(WarehouseSink(settings)) as sink, closing(WarehouseProbe(warehouse_dsn)) as probe:
            yield Subject(sink, probe, unique, SINKS["warehouse"])

    def open_unavailable(self) -> WarehouseSink:
        return WarehouseSink(WarehouseSettings("postgresql://127.0.0.1:1/warehouse"))


def test_stored_contents_are_read_as_they_were_staged(warehouse: WarehouseUnderTest) -> None:
    """Every column that a sink needs comes back unchanged, with the origin of the message that it supersedes."""
    extra = '{"b":1e22,"a":-0.0,"ab":[1.50]}'
    stored = event(version=2, text="a text", campaign_id="c", value=0.1, extra=extra, occurred_at=-62135596799999)
    bare = event(message_id="bare", kind="view", occurred_at=253402300799999)
    warehouse.ingest(stored, bare)
    asked = events_table([(record(7), event(message_id="new")), (record(8), bare), (record(9), event(version=1))])
    expected = events_table([(record(8), bare), (record(9), stored)])
    assert warehouse.stored_versions.read(asked).equals(expected)
    assert warehouse.stored_versions.read(asked.slice(0, 1)).equals(expected.slice(0, 0))


def _is_revised(warehouse: WarehouseUnderTest, content: Event) -> bool:
    return bool(warehouse.stored_versions.compare(events_table([(record(0), content)]))[1][0])


def test_a_losing_content_marks_its_row_and_nothing_else(warehouse: WarehouseUnderTest) -> None:
    """A store may have it, so a replay must look for it; the event itself, its hour and its user did not change."""
    stored = event(version=2)
    warehouse.ingest(stored, event(message_id="other"))
    warehouse.recount_touched()
    warehouse.activity.clear_changed_users(warehouse.activity.read_changed_users())
    warehouse.ingest(event(version=1, occurred_at=HOUR, item_id="j"), start=1)
    assert _is_revised(warehouse, stored)
    assert not _is_revised(warehouse, event(message_id="other"))
    table = events_table([(record(0), stored)])
    assert warehouse.stored_versions.read(table).equals(table)
    assert warehouse.engagement.read_touched_hours() == []
    assert warehouse.activity.read_changed_users() == []


def test_a_deletion_marks_the_hour_and_the_user(warehouse: WarehouseUnderTest) -> None:
    """The hour is recounted without the event, and the user's list rebuilt; nothing has to commit first."""
    stored = batch_of(BatchRef("events", 0, 0, 1), event(user_id="u", occurred_at=HOUR))
    warehouse.sink.upsert(stored)
    warehouse.recount_touched()
    assert warehouse.activity.read_changed_users() == []
    assert warehouse.sink.delete(stored.events) == 1
    assert warehouse.recount_touched() == ["1970-01-01T01:00:00+00:00"]
    assert [mark.key for mark in warehouse.activity.read_changed_users()] == ["u"]


def test_a_row_that_replaces_another_content_is_marked(warehouse: WarehouseUnderTest) -> None:
    """Whether it is new or stored already: staging has seen a losing content in the same batch."""
    stored, new = event(), event(message_id="new")
    warehouse.ingest(stored)
    warehouse.recount_touched()
    ref = warehouse.ledger.claim_range(BatchRef("events", 0, 1, 3))
    warehouse.sink.upsert(batch_of(ref, stored, new))
    assert not _is_revised(warehouse, stored)
    warehouse.sink.upsert(batch_of(ref, stored, new, replaces=True))
    assert _is_revised(warehouse, stored)
    assert _is_revised(warehouse, new)
    assert len(warehouse.recount_touched()) == 1


def test_stored_versions_are_compared_with_a_batch(warehouse: WarehouseUnderTest) -> None:
    """An event is outdated if a newer revision is stored, and revises an older one; a new identity does neither."""
    low, high = event(version=1), event(version=2)
    other = event(message_id="other")

    def compare(*events: Event) -> list[list[bool]]:
        table = events_table((record(offset), event) for offset, event in enumerate(events))
        return [column.tolist() for column in warehouse.stored_versions.compare(table)]

    assert compare(low, other) == [[False, False], [False, False]]
    warehouse.ingest(low)
    assert compare(low, high, other) == [[False, False, False], [False, True, False]]
    warehouse.ingest(high, start=1)
    assert compare(low, high) == [[True, False], [True, True]]


def test_text_vectors_are_stored_by_generation(warehouse: WarehouseUnderTest) -> None:
    """A vector is returned unchanged, for its own generation only, and is never overwritten."""
    warehouse.text_vectors.put(GENERATION, ["a", "b"], np.asarray([[1, 2], [3, 4]], dtype=np.float32))
    warehouse.text_vectors.put(GENERATION, ["a"], np.asarray([[9, 9]], dtype=np.float32))
    stored = warehouse.text_vectors.get(GENERATION, ["a", "b", "c"])
    assert {name: vector.tolist() for name, vector in stored.items()} == {"a": [1, 2], "b": [3, 4]}
    assert warehouse.text_vectors.get(Generation("test", "2", 2), ["a"]) == {}
    with warehouse.text_vectors.lock(GENERATION, "0"):
        assert warehouse.text_vectors.get(GENERATION, []) == {}


def test_engagement_is_counted_by_hour_item_campaign_and_kind(warehouse: WarehouseUnderTest) -> None:
    """Every touched hour is counted separately; popularity sums the hours, and a return adds nothing to it."""
    warehouse.ingest(
        event(message_id="1", item_id="x", value=1.5),
        event(message_id="2", item_id="x", user_id="v", campaign_id="c"),
        event(message_id="3", item_id="y", occurred_at=HOUR),
        event(message_id="4", item_id="z", kind="return"),
        event(message_id="5", item_id=None, text="no item"),
    )
    assert warehouse.recount_touched() == ["1970-01-01T00:00:00+00:00", "1970-01-01T01:00:00+00:00"]
    assert warehouse.engagement.read_touched_hours() == []
    popular = warehouse.engagement.rank_popular(HOUR, half_life_days=30, limit=10)
    assert [item for item, _ in popular] == ["x", "y"]
    assert [score for _, score in popular] == pytest.approx([2 * 0.5 ** (1 / 720), 1.0])
    assert len(warehouse.engagement.rank_popular(HOUR, half_life_days=30, limit=1)) == 1


def test_very_old_events_count_next_to_nothing(warehouse: WarehouseUnderTest) -> None:
    """An event of 1900, or of the year 1, is ranked last and does not break the popularity of all other items."""
    warehouse.ingest(
        event(message_id="1", item_id="b", occurred_at=-2_208_988_800_000),
        event(message_id="2", item_id="a", occurred_at=-62_135_596_800_000, kind="view"),
        event(message_id="3", item_id="new", occurred_at=1_764_000_000_000),
    )
    warehouse.recount_touched()
    popular = warehouse.engagement.rank_popular(1_764_000_000_000, half_life_days=30, limit=10)
    assert [item for item, _ in popular] == ["new", "b", "a"]
    assert [score for _, score in popular[1:]] == pytest.approx([0.5**1_000, 0.2 * 0.5**1_000], abs=0)


def test_recounting_an_hour_changes_nothing(warehouse: WarehouseUnderTest) -> None:
    """A recount gives the same number of rows and the same popularity every time."""
    warehouse.ingest(event(message_id="1"), event(message_id="2", occurred_at=HOUR))
    hours = warehouse.recount_touched()
    before = warehouse.engagement.rank_popular(0, 30, 10)
    assert warehouse.engagement.recount(hours) == warehouse.engagement.recount_between(0, 2 * HOUR) == 2
    assert warehouse.engagement.recount_between(HOUR, 2 * HOUR) == 1
    assert warehouse.engagement.rank_popular(0, 30, 10) == before


def test_a_duplicate_event_marks_nothing(warehouse: WarehouseUnderTest) -> None:
    """Storing the same event again marks no hour and no user."""
    warehouse.ingest(event())
    warehouse.recount_touched()
    warehouse.activity.clear_changed_users(warehouse.activity.read_changed_users())
    warehouse.ingest(event(), start=1)
    assert warehouse.engagement.read_touched_hours() == []
    assert warehouse.activity.read_changed_users() == []
    assert warehouse.sink.count() == 1


def test_a_corrected_event_touches_both_hours(warehouse: WarehouseUnderTest) -> None:
    """When a newer version moves an event to another hour, both hours are recounted, and the old one becomes empty."""
    warehouse.ingest(event(item_id="old"))
    warehouse.recount_touched()
    warehouse.ingest(event(item_id="new", occurred_at=5 * HOUR, version=1), start=1)
    assert warehouse.recount_touched() == ["1970-01-01T00:00:00+00:00", "1970-01-01T05:00:00+00:00"]
    assert [item for item, _ in warehouse.engagement.rank_popular(0, 30, 10)] == ["new"]


def test_an_hour_touched_again_stays_touched(warehouse: WarehouseUnderTest) -> None:
    """Clearing removes only the marks that were read, not those set in the meantime."""
    warehouse.ingest(event(message_id="1"))
    read = warehouse.engagement.read_touched_hours()
    warehouse.ingest(event(message_id="2"), start=1)
    warehouse.engagement.clear_hours(read)
    assert [mark.key for mark in warehouse.engagement.read_touched_hours()] == [read[0].key]


def test_users_count_as_changed_once_their_batch_is_committed(warehouse: WarehouseUnderTest) -> None:
    """Users count as changed only after the commit, and the mark of a later batch survives clearing an earlier one."""
    ref = warehouse.ledger.claim_range(BatchRef("events", 0, 0, 1))
    warehouse.sink.upsert(batch_of(ref, event()))
    assert warehouse.activity.read_changed_users() == []
    warehouse.ledger.commit(ref)
    read = warehouse.activity.read_changed_users()
    assert [mark.key for mark in read] == ["u"]
    warehouse.ingest(event(message_id="later"), start=1)
    warehouse.activity.clear_changed_users(read)
    assert [mark.key for mark in warehouse.activity.read_changed_users()] == ["u"]
    warehouse.activity.clear_changed_users([Mark("u", -1)])
    assert [mark.key for mark in warehouse.activity.read_changed_users()] == ["u"]


def test_a_commit_also_shows_users_that_an_unfinished_run_brought(warehouse: WarehouseUnderTest) -> None:
    """If a range run stores an event and dies, the live batch that repeats it shows its user, and only that one."""
    ranged = warehouse.ledger.claim_range(BatchRef("events", 0, 0, 9, BatchMode.RANGE))
    warehouse.sink.upsert(batch_of(ranged, event(), event(user_id="later")))
    warehouse.ingest(event(), event())
    read = warehouse.activity.read_changed_users()
    assert [mark.key for mark in read] == ["u"]
    warehouse.activity.clear_changed_users(read)
    warehouse.ledger.commit(ranged)
    assert [mark.key for mark in warehouse.activity.read_changed_users()] == ["later", "u"]


@pytest.mark.servers("postgres")
def test_a_commit_also_shows_users_of_a_run_that_it_had_to_wait_for(warehouse_dsn: str) -> None:
    """A live batch that waits for a range run's transaction shows the users whose events that run stored first."""
    settings = WarehouseSettings(warehouse_dsn)
    with (
        closing(Warehouse(settings)) as ranging,
        closing(Warehouse(settings)) as observer,
        closing(WarehouseSink(settings)) as sink,
        ThreadPoolExecutor(1) as pool,
    ):
        ranged = ranging.ledger.claim_range(BatchRef("events", 0, 0, 9, BatchMode.RANGE))
        live = ranging.ledger.claim_range(BatchRef("events", 0, 0, 1))
        with ranging.database.transaction() as transaction:
            transaction.execute(SQL["create_incoming"])
            transaction.copy("incoming", batch_of(ranged, event()).events.select(COLUMNS))
            transaction.query(SQL["upsert_events"], {"batch": ranged.batch_id})
            writing = pool.submit(sink.upsert, batch_of(live, event()))
            wait_until(lambda: observer.database.query(_WAITING) == [(1,)], "the live batch waits")
        writing.result()
        ranging.ledger.commit(live)
        assert [mark.key for mark in ranging.activity.read_changed_users()] == ["u"]


def test_user_activity_covers_users_texts_and_items(warehouse: WarehouseUnderTest) -> None:
    """It reports the newest event, active users, counts per text, and each item's newest title, not user messages."""
    assert warehouse.activity.find_newest_event_ms() is None
    warehouse.ingest(
        event(message_id="1", item_id="x", text="old title"),
        event(message_id="2", item_id="x", text="new title", occurred_at=HOUR),
        event(message_id="3", item_id="x", text="I like it", kind="message", occurred_at=2 * HOUR),
        event(message_id="4", item_id="y", text=None),
        event(message_id="5", user_id="v", item_id=None, text="new title", occurred_at=9 * HOUR),
        event(message_id="6", user_id="v", item_id=None, text="new title", occurred_at=9 * HOUR + 1),
        event(message_id="7", item_id="only messages", text="between us", kind="message"),
    )
    assert warehouse.activity.find_newest_event_ms() == 9 * HOUR + 1
    assert warehouse.activity.find_active_users(None) == ["u", "v"]
    assert warehouse.activity.find_active_users(9 * HOUR) == ["v"]
    assert warehouse.activity.read_item_texts(["x", "y", "only messages", "unknown"]) == {"x": "new title"}
    counts = warehouse.activity.count_texts(["v", "nobody"]).to_pylist()
    assert [(row["user_id"], row["events"]) for row in counts] == [("v", 2)]
    assert warehouse.activity.count_texts([]).num_rows == 0


@pytest.mark.servers("postgres")
def test_a_workers_clock_does_not_matter(warehouse_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose clock is an hour ahead gets the same time as every other one."""
    before = time.time()
    monkeypatch.setattr(time, "time", lambda: before + 3_600)
    with closing(Warehouse(WarehouseSettings(warehouse_dsn))) as warehouse:
        assert abs(warehouse.activity.read_clock_ms() / 1000 - before) < 600


def test_known_users_are_those_with_an_event(warehouse: WarehouseUnderTest) -> None:
    """Of many users, those with at least one stored event are returned, in the same order and once each."""
    odd = "\\ \"quoted\" '用户' {a,b}"
    warehouse.ingest(event(user_id=odd), event(user_id="u", message_id="1"), event(user_id="u", message_id="2"))
    invented = [f"invented {number}" for number in range(12_000)]
    assert warehouse.activity.filter_known_users(["u", *invented, odd]) == ["u", odd]
    assert warehouse.activity.filter_known_users([]) == []


def test_the_centre_is_recomputed_at_a_hundred_texts_and_at_each_doubling(warehouse: WarehouseUnderTest) -> None:
    """Recomputing the centre marks every user as changed; in between, it stays the same."""
    vectors = np.tile(np.asarray([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32), (100, 1))
    warehouse.ingest(event())
    warehouse.activity.clear_changed_users(warehouse.activity.read_changed_users())

    def put(numbers: range) -> Any:
        names = [f"{number:04d}" for number in numbers]
        warehouse.text_vectors.put(GENERATION, names, vectors[numbers.start : numbers.stop])
        return warehouse.activity.refresh_text_centre(GENERATION)

    assert put(range(99)) is None
    assert warehouse.activity.read_changed_users() == []
    assert put(range(99, 100)).tolist() == [0.5, 0.5]
    assert [mark.key for mark in warehouse.activity.read_changed_users()] == ["u"]
    warehouse.activity.clear_changed_users(warehouse.activity.read_changed_users())
    assert put(range(100, 199)).tolist() == [0.5, 0.5]
    assert warehouse.activity.read_changed_users() == []
    put(range(199, 200))
    assert [mark.key for mark in warehouse.activity.read_changed_users()] == ["u"]


def test_a_new_centre_marks_every_user_in_slices(
    warehouse: WarehouseUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many users there are, each is marked once, and clearing their marks in slices leaves none."""
    monkeypatch.setattr(user_activity, "USERS_PER_SLICE", 2)
    users = ["a", "b", "ü", "x" * 128, "用户"]
    warehouse.ingest(*(event(user_id=user, message_id=number) for user in users for number in ("1", "2")))
    warehouse.activity.clear_changed_users(warehouse.activity.read_changed_users())
    assert warehouse.activity.read_changed_users() == []
    vectors = np.ones((100, 2), dtype=np.float32)
    warehouse.text_vectors.put(GENERATION, [f"{number:03d}" for number in range(100)], vectors)
    warehouse.activity.refresh_text_centre(GENERATION)
    marks = warehouse.activity.read_changed_users()
    assert sorted(mark.key for mark in marks) == sorted(users)
    warehouse.activity.clear_changed_users(marks[1:])
    assert warehouse.activity.read_changed_users() == marks[:1]


def test_unusual_values_are_stored_unchanged(warehouse: WarehouseUnderTest) -> None:
    """Quotes, line breaks, emoji, and extreme times and numbers are stored unchanged."""
    odd = 'a "quoted", \\ backslashed\nline\t\U0001f9e1 and, commas'
    warehouse.ingest(
        event(user_id=odd, message_id=odd, text=odd, item_id=odd, campaign_id=odd, kind=odd, extra='{"a":"\\"b\\""}'),
        event(message_id="early", occurred_at=-62135596800000),
        event(message_id="late", occurred_at=253402300799999, version=2**63 - 1, value=1e308),
    )
    assert odd in warehouse.activity.find_active_users(None)
    assert warehouse.activity.read_item_texts([odd]) == {odd: odd}
    warehouse.recount_touched()
    assert warehouse.engagement.read_touched_hours() == []
