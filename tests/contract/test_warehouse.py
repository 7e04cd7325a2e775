"""The ports that the warehouse keeps, each held by one suite on the memory twin and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from include.domain.batch import BatchMode, BatchRef, StageCounts, StagedBatch, events_table
from include.domain.event import Event
from include.domain.generation import Generation
from include.errors import OffsetsGoneError
from include.domain.mark import Mark
from include.domain.offsets import Offsets
from include.ports import UserActivity, Engagement, Ledger, Sink, StoredVersions, TextVectors
from tests.contract.events import event, record

GENERATION = Generation("test", "1", 2)
HOUR = 3_600_000
NO_VECTORS = np.empty((0, 2), dtype=np.float32)


@dataclass(frozen=True)
class House:
    """One warehouse, behind all of its ports."""

    ledger: Ledger
    standing: StoredVersions
    text_vectors: TextVectors
    sink: Sink
    engagement: Engagement
    activity: UserActivity

    def ingest(self, *events: Event, start: int = 0) -> BatchRef:
        """Store ``events`` as one committed live batch."""
        ref = BatchRef("events", 0, start, start + 1)
        self.ledger.claim_range(ref)
        self.sink.upsert(batch_of(ref, *events))
        self.ledger.commit(ref)
        return ref

    def recount_touched(self) -> list[str]:
        """Redo and clear what is touched; the hours."""
        marks = self.engagement.touched_hours()
        self.engagement.recount([mark.key for mark in marks])
        self.engagement.clear_hours(marks)
        return [mark.key for mark in marks]


def batch_of(ref: BatchRef, *events: Event) -> StagedBatch:
    table = events_table([(record(offset), each) for offset, each in enumerate(events)])
    return StagedBatch(ref, table, (), NO_VECTORS)


@pytest.fixture(params=["memory", "real"])
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    """An empty warehouse."""
    if request.param == "memory":
        yield memory_house()
    else:
        dsn: str = request.getfixturevalue("warehouse_dsn")
        yield from real_house(dsn)


def memory_house() -> House:
    from include.stores import memory_warehouse as memory

    tables = memory.MemoryTables()
    return House(
        memory.MemoryLedger(tables),
        memory.MemoryStoredVersions(tables),
        memory.MemoryTextVectors(tables),
        memory.MemoryWarehouseSink(tables),
        memory.MemoryEngagement(tables),
        memory.MemoryUserActivity(tables),
    )


def real_house(dsn: str) -> Iterator[House]:
    from include.settings import WarehouseSettings
    from include.sinks.warehouse import WarehouseSink
    from include.stores.warehouse.warehouse import Warehouse

    warehouse = Warehouse(WarehouseSettings(dsn))
    yield House(
        warehouse.ledger,
        warehouse.stored_versions,
        warehouse.text_vectors,
        WarehouseSink(warehouse.database),
        warehouse.engagement,
        warehouse.activity,
    )
    warehouse.close()


def test_an_open_batch_is_claimed_again(house: House) -> None:
    """A retry reads the same offsets, however many messages came in meanwhile."""
    first = house.ledger.claim("events", 0, Offsets(0, 10), 5)
    assert first == BatchRef("events", 0, 0, 5)
    assert house.ledger.claim("events", 0, Offsets(0, 99), 50) == first


def test_batches_follow_one_another(house: House) -> None:
    """After a commit the next batch begins where the last ended; at the end there is none."""
    for start, end in [(3, 8), (8, 11)]:
        ref = house.ledger.claim("events", 0, Offsets(3, 11), 5)
        assert ref == BatchRef("events", 0, start, end)
        house.ledger.commit(ref)
        assert house.ledger.position("events", 0) == end
    assert house.ledger.claim("events", 0, Offsets(3, 11), 5) is None


def test_shards_and_topics_are_claimed_apart(house: House) -> None:
    """What one shard has claimed means nothing to another, nor to another topic."""
    house.ledger.claim("events", 0, Offsets(0, 10), 5)
    assert house.ledger.claim("events", 1, Offsets(2, 10), 5) == BatchRef("events", 1, 2, 7)
    assert house.ledger.claim("other", 0, Offsets(0, 3), 5) == BatchRef("other", 0, 0, 3)
    assert house.ledger.position("events", 1) is None


@pytest.mark.parametrize("now", [Offsets(7, 20), Offsets(0, 3)])
def test_offsets_that_are_not_there_are_an_error(house: House, now: Offsets) -> None:
    """Messages removed before they were read, and a topic made anew, stop the shard instead of skipping."""
    first = house.ledger.claim("events", 0, Offsets(0, 5), 5)
    assert first is not None
    house.ledger.commit(first)
    with pytest.raises(OffsetsGoneError):
        house.ledger.claim("events", 0, now, 5)


def test_a_range_moves_nothing(house: House) -> None:
    """Repeating a range leaves the shard's position and its next batch as they were."""
    again = BatchRef("events", 0, 0, 4, BatchMode.RANGE)
    for _ in range(2):
        house.ledger.claim_range(again)
        house.ledger.record_staged(again, StageCounts(delivered=4, valid=4))
        house.ledger.commit(again)
    assert house.ledger.position("events", 0) is None
    assert house.ledger.claim("events", 0, Offsets(0, 9), 5) == BatchRef("events", 0, 0, 5)


def test_standing_tells_new_from_known(house: House) -> None:
    """A fresh identity stands nowhere; a lower content has a newer one stored, a higher one an older."""
    low, high = event(version=1), event(version=2)
    other = event(message_id="other")

    def asked(*events: Event) -> list[list[bool]]:
        table = events_table([(record(offset), each) for offset, each in enumerate(events)])
        return [column.tolist() for column in house.stored_versions.compare(table)]

    assert asked(low, other) == [[False, False], [False, False]]
    house.ingest(low)
    assert asked(low, high, other) == [[False, False, False], [False, True, False]]
    house.ingest(high, start=1)
    assert asked(low, high) == [[True, False], [True, True]]


def test_text_vectors_are_kept_by_generation(house: House) -> None:
    """A vector comes back as it was, for its own generation only; the first one written stays."""
    house.text_vectors.put(GENERATION, ["a", "b"], np.asarray([[1, 2], [3, 4]], dtype=np.float32))
    house.text_vectors.put(GENERATION, ["a"], np.asarray([[9, 9]], dtype=np.float32))
    found = house.text_vectors.get(GENERATION, ["a", "b", "c"])
    assert {name: vector.tolist() for name, vector in found.items()} == {"a": [1, 2], "b": [3, 4]}
    assert house.text_vectors.get(Generation("test", "2", 2), ["a"]) == {}
    with house.text_vectors.lock(GENERATION, "0"):
        assert house.text_vectors.get(GENERATION, []) == {}


def test_engagement_is_counted_by_hour_item_campaign_and_kind(house: House) -> None:
    """Each touched hour becomes rows of its own; popularity sums them, a return weighs nothing."""
    house.ingest(
        event(message_id="1", item_id="x", value=1.5),
        event(message_id="2", item_id="x", user_id="v", campaign_id="c"),
        event(message_id="3", item_id="y", occurred_at=HOUR),
        event(message_id="4", item_id="z", kind="return"),
        event(message_id="5", item_id=None, text="no item"),
    )
    assert house.recount_touched() == ["1970-01-01T00:00:00+00:00", "1970-01-01T01:00:00+00:00"]
    assert house.engagement.touched_hours() == []
    popular = house.engagement.popular(HOUR, half_life_days=30, limit=10)
    assert [item for item, _ in popular] == ["x", "y"]
    assert [score for _, score in popular] == pytest.approx([2 * 0.5 ** (1 / 720), 1.0])
    assert len(house.engagement.popular(HOUR, half_life_days=30, limit=1)) == 1


def test_counting_an_hour_twice_changes_nothing(house: House) -> None:
    """A recount gives the same number of rows and the same popularity every time."""
    house.ingest(event(message_id="1"), event(message_id="2", occurred_at=HOUR))
    hours = house.recount_touched()
    before = house.engagement.popular(0, 30, 10)
    assert house.engagement.recount(hours) == house.engagement.recount_between(0, 2 * HOUR) == 2
    assert house.engagement.recount_between(HOUR, 2 * HOUR) == 1
    assert house.engagement.popular(0, 30, 10) == before


def test_a_repetition_touches_nothing(house: House) -> None:
    """The same events again mark no hour and no user."""
    house.ingest(event())
    house.recount_touched()
    house.activity.clear_changed_users(house.activity.changed_users())
    house.ingest(event(), start=1)
    assert house.engagement.touched_hours() == []
    assert house.activity.changed_users() == []
    assert house.sink.count() == 1


def test_a_corrected_event_touches_both_hours(house: House) -> None:
    """When a newer version moves an event, the hour it left is counted again, and emptied."""
    house.ingest(event(item_id="old"))
    house.recount_touched()
    house.ingest(event(item_id="new", occurred_at=5 * HOUR, version=1), start=1)
    assert house.recount_touched() == ["1970-01-01T00:00:00+00:00", "1970-01-01T05:00:00+00:00"]
    assert [item for item, _ in house.engagement.popular(0, 30, 10)] == ["new"]


def test_an_hour_touched_again_stays_touched(house: House) -> None:
    """Clearing spares what was marked after it was read."""
    house.ingest(event(message_id="1"))
    read = house.engagement.touched_hours()
    house.ingest(event(message_id="2"), start=1)
    house.engagement.clear_hours(read)
    assert [mark.key for mark in house.engagement.touched_hours()] == [read[0].key]


def test_users_are_changed_once_their_batch_is_everywhere(house: House) -> None:
    """Before the commit nobody is changed; a later batch's mark survives the clearing of an earlier one."""
    ref = BatchRef("events", 0, 0, 1)
    house.ledger.claim_range(ref)
    house.sink.upsert(batch_of(ref, event()))
    assert house.activity.changed_users() == []
    house.ledger.commit(ref)
    read = house.activity.changed_users()
    assert [mark.key for mark in read] == ["u"]
    house.ingest(event(message_id="later"), start=1)
    house.activity.clear_changed_users(read)
    assert [mark.key for mark in house.activity.changed_users()] == ["u"]
    house.activity.clear_changed_users([Mark("u", -1)])
    assert [mark.key for mark in house.activity.changed_users()] == ["u"]


def test_the_audience_knows_users_texts_and_items(house: House) -> None:
    """Newest event, active users, how often each text, and each item's newest title before what users write."""
    assert house.activity.newest_event_ms() is None
    house.ingest(
        event(message_id="1", item_id="x", text="old title"),
        event(message_id="2", item_id="x", text="new title", occurred_at=HOUR),
        event(message_id="3", item_id="x", text="I like it", kind="message", occurred_at=2 * HOUR),
        event(message_id="4", item_id="y", text=None),
        event(message_id="5", user_id="v", item_id=None, text="new title", occurred_at=9 * HOUR),
        event(message_id="6", user_id="v", item_id=None, text="new title", occurred_at=9 * HOUR + 1),
    )
    assert house.activity.newest_event_ms() == 9 * HOUR + 1
    assert house.activity.active_users(None) == ["u", "v"]
    assert house.activity.active_users(9 * HOUR) == ["v"]
    assert house.activity.item_texts(["x", "y", "unknown"]) == {"x": "new title"}
    counts = house.activity.count_texts(["v", "nobody"]).to_pylist()
    assert [(row["user_id"], row["events"]) for row in counts] == [("v", 2)]
    assert house.activity.count_texts([]).num_rows == 0


def test_the_centre_is_taken_at_a_hundred_texts_and_at_each_doubling(house: House) -> None:
    """Until then there is none; when it is taken, every user is changed; in between it stays."""
    vectors = np.tile(np.asarray([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32), (100, 1))
    house.ingest(event())
    house.activity.clear_changed_users(house.activity.changed_users())

    def put(numbers: range) -> Any:
        names = [f"{number:04d}" for number in numbers]
        house.text_vectors.put(GENERATION, names, vectors[numbers.start : numbers.stop])
        return house.activity.refresh_text_centre(GENERATION)

    assert put(range(99)) is None
    assert house.activity.changed_users() == []
    assert put(range(99, 100)).tolist() == [0.5, 0.5]
    assert [mark.key for mark in house.activity.changed_users()] == ["u"]
    house.activity.clear_changed_users(house.activity.changed_users())
    assert put(range(100, 199)).tolist() == [0.5, 0.5]
    assert house.activity.changed_users() == []
    put(range(199, 200))
    assert [mark.key for mark in house.activity.changed_users()] == ["u"]


def test_what_a_row_may_hold_comes_back(house: House) -> None:
    """Quotes, line breaks, emoji, extreme times and numbers are stored as they are."""
    odd = 'a "quoted", \\ backslashed\nline\t\U0001f9e1 and, commas'
    house.ingest(
        event(user_id=odd, message_id=odd, text=odd, item_id=odd, campaign_id=odd, kind=odd, extra='{"a":"\\"b\\""}'),
        event(message_id="early", occurred_at=-62135596800000),
        event(message_id="late", occurred_at=253402300799999, version=2**63 - 1, value=1e308),
    )
    assert odd in house.activity.active_users(None)
    assert house.activity.item_texts([odd]) == {odd: odd}
    house.recount_touched()
    assert house.engagement.touched_hours() == []
