"""The batch: names made of a range alone, and events as rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from include.domain.batch import EVENT_SCHEMA, BatchMode, BatchRef, DeadLetter, Record, StageCounts, events_table
from include.domain.event import Event
from include.domain.reasons import Reason
from tests.contract.events import event, record

#: What Kafka allows in the name of a topic, the signs of our own names among them.
TOPICS = st.text("ab09.-_", min_size=1, max_size=6)
REFS = st.builds(
    BatchRef,
    topic=TOPICS,
    shard=st.integers(0, 4095),
    start=st.integers(0, 2**53),
    end=st.integers(0, 2**53),
    mode=st.sampled_from(BatchMode),
)


@given(REFS, REFS)
def test_two_batches_have_two_names(one: BatchRef, other: BatchRef) -> None:
    """Names are equal exactly when topic, shard, range and mode are."""
    assert (one.batch_id == other.batch_id) is (one == other)


@given(st.integers(0, 99), st.integers(0, 10**11), st.integers(1, 1000))
def test_names_sort_as_batches_follow_one_another(shard: int, start: int, size: int) -> None:
    """In a listing of files or rows the batches of a shard stand in their order."""
    first = BatchRef("events", shard, start, start + size)
    second = BatchRef("events", shard, start + size, start + 2 * size)
    assert first.batch_id < second.batch_id
    assert first.size == second.size == size


def test_a_name_can_be_read() -> None:
    """Topic, shard, range and mode, each at its place; a repetition of the range has a name of its own."""
    assert BatchRef("events", 3, 7, 19).batch_id == "events-003-000000000007-000000000019-live"
    assert BatchRef("events", 3, 7, 19, BatchMode.RANGE).batch_id == "events-003-000000000007-000000000019-range"


@given(TOPICS, TOPICS, *[st.integers(0, 11)] * 4)
def test_two_messages_have_two_origins(topic: str, topic2: str, shard: int, shard2: int, at: int, at2: int) -> None:
    """The key of a dead letter says where its message stood, whatever the letter says besides."""
    one = DeadLetter(topic, Record(shard, at, 0, None, b"x"), Reason.INVALID_JSON)
    other = DeadLetter(topic2, Record(shard2, at2, 5, b"k", None), Reason.EMPTY_MESSAGE)
    assert (one.origin == other.origin) is ((topic, shard, at) == (topic2, shard2, at2))


IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
EVENTS = st.builds(
    Event,
    user_id=IDS,
    message_id=IDS,
    kind=IDS,
    occurred_at=st.integers(-62_135_596_800_000, 253_402_300_799_999),
    text=st.none() | IDS,
    item_id=st.none() | IDS,
    campaign_id=st.none() | IDS,
    value=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    version=st.integers(0, 2**63 - 1),
    extra=st.none() | IDS,
)


@given(st.lists(EVENTS, max_size=5))
def test_every_field_has_its_column(events: list[Event]) -> None:
    """A row holds what the event and its message hold, in the order given; nothing replaces anything yet."""
    records = [Record(0, 10 + number, 1000 + number, None, None) for number in range(len(events))]
    table = events_table(zip(records, events, strict=True))
    assert table.schema.equals(EVENT_SCHEMA)
    times = table["occurred_at"].cast("int64").to_pylist()
    for row, at, each, message in zip(table.to_pylist(), times, events, records, strict=True):
        fields = {name: getattr(each, name) for name in row if hasattr(each, name) and name != "occurred_at"}
        places = {"offset": message.offset, "published_at": message.published_at, "replaces": False}
        assert {**row, "occurred_at": at} == {**fields, **places, "occurred_at": each.occurred_at}


def test_no_events_are_a_table_too() -> None:
    """A batch of nothing but dead letters has the columns that every task expects."""
    assert events_table([]).equals(EVENT_SCHEMA.empty_table())


def test_a_row_keeps_the_computed_columns() -> None:
    """Identity, digest and the hash of the text are computed once, here, and travel with the row."""
    given_event = event(text="hello", version=2)
    row = events_table([(record(0), given_event)]).to_pylist()[0]
    assert (row["event_id"], row["digest"]) == (given_event.event_id, given_event.digest)
    assert row["text_hash"] == given_event.text_hash
    assert events_table([(record(0), event())]).to_pylist()[0]["text_hash"] is None


def test_counts_of_two_batches_are_apart() -> None:
    """What is noted for one batch is not seen in the next one's beginning."""
    StageCounts().dead_letters["x"] = 1
    StageCounts().warnings.append("odd")
    assert StageCounts() == StageCounts(0, 0, 0, {}, [])


CONTENTS = st.builds(
    event, version=st.integers(0, 2), item_id=st.sampled_from("ij"), value=st.sampled_from([None, 1.0])
)


@given(st.lists(CONTENTS, min_size=1, max_size=6))
def test_of_one_identity_one_content_stands(contents: list[Event]) -> None:
    """The order is total: contents with equal precedence are equal, and the highest version is among the highest."""
    best = max(contents, key=lambda each: each.precedence)
    assert best.version == max(each.version for each in contents)
    assert {each for each in contents if each.precedence == best.precedence} == {best}
    ordered = sorted(contents, key=lambda each: each.precedence)
    assert np.all(np.diff([each.version for each in ordered]) >= 0)
