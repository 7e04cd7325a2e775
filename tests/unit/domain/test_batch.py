"""The batch: ids computed from a range alone, and events as rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from include.domain.batch import EVENT_SCHEMA, BatchMode, BatchRef, DeadLetter, Record, StageCounts, events_table
from include.domain.event import Event
from include.domain.reasons import Reason
from tests.contract.events import event, record

#: Characters that Kafka allows in topic names, including the separators of batch ids.
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
def test_batch_ids_are_unique(one: BatchRef, other: BatchRef) -> None:
    """Two batch ids are equal exactly when topic, shard, range and mode are equal."""
    assert (one.batch_id == other.batch_id) is (one == other)


@given(st.integers(0, 99), st.integers(0, 10**11), st.integers(1, 1000))
def test_batch_ids_sort_by_offset(shard: int, start: int, size: int) -> None:
    """The ids of consecutive batches of a shard sort in the order of their offsets."""
    first = BatchRef("events", shard, start, start + size)
    second = BatchRef("events", shard, start + size, start + 2 * size)
    assert first.batch_id < second.batch_id
    assert first.size == second.size == size


def test_a_batch_id_is_readable() -> None:
    """A batch id spells out topic, shard, range and mode, so a range batch and a live batch have different ids."""
    assert BatchRef("events", 3, 7, 19).batch_id == "events-003-000000000007-000000000019-live"
    assert BatchRef("events", 3, 7, 19, BatchMode.RANGE).batch_id == "events-003-000000000007-000000000019-range"


@given(TOPICS, TOPICS, *[st.integers(0, 11)] * 4)
def test_origins_are_unique(
    topic: str, other_topic: str, shard: int, other_shard: int, offset: int, other_offset: int
) -> None:
    """Two dead letters have the same origin exactly when topic, shard and offset are equal, whatever they contain."""
    one = DeadLetter(topic, Record(shard, offset, 0, None, b"x"), Reason.INVALID_JSON)
    other = DeadLetter(other_topic, Record(other_shard, other_offset, 5, b"k", None), Reason.EMPTY_MESSAGE)
    assert (one.origin == other.origin) is ((topic, shard, offset) == (other_topic, other_shard, other_offset))


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


@settings(deadline=None)  # a busy machine is not a failure
@given(st.lists(EVENTS, max_size=5))
def test_every_field_has_a_column(events: list[Event]) -> None:
    """Each row has the fields of one event and its message, in the order given, and replaces nothing."""
    records = [Record(0, 10 + number, 1000 + number, None, None) for number in range(len(events))]
    table = events_table(zip(records, events, strict=True))
    assert table.schema.equals(EVENT_SCHEMA)
    times = table["occurred_at"].cast("int64").to_pylist()
    for row, time, source, message in zip(table.to_pylist(), times, events, records, strict=True):
        fields = {name: getattr(source, name) for name in row if hasattr(source, name) and name != "occurred_at"}
        origin = {"offset": message.offset, "published_at": message.published_at, "replaces": False}
        assert {**row, "occurred_at": time} == {**fields, **origin, "occurred_at": source.occurred_at}


def test_an_empty_table_has_every_column() -> None:
    """A batch that contains only dead letters still has the columns that every task expects."""
    assert events_table([]).equals(EVENT_SCHEMA.empty_table())


def test_rows_contain_the_computed_values() -> None:
    """A row contains the event's id, digest and text hash, so that no later task computes them."""
    source = event(text="hello", version=2)
    row = events_table([(record(0), source)]).to_pylist()[0]
    assert (row["event_id"], row["digest"]) == (source.event_id, source.digest)
    assert row["text_hash"] == source.text_hash
    assert events_table([(record(0), event())]).to_pylist()[0]["text_hash"] is None


def test_counts_share_no_state() -> None:
    """Changing the counts of one batch does not change the defaults of the next."""
    StageCounts().dead_letters["x"] = 1
    StageCounts().warnings.append("odd")
    assert StageCounts() == StageCounts(0, 0, 0, {}, [])


CONTENTS = st.builds(
    event, version=st.integers(0, 2), item_id=st.sampled_from("ij"), value=st.sampled_from([None, 1.0])
)


@given(st.lists(CONTENTS, min_size=1, max_size=6))
def test_precedence_is_a_total_order(contents: list[Event]) -> None:
    """Contents with equal precedence are equal, and a higher version always has a higher precedence."""
    winner = max(contents, key=lambda content: content.precedence)
    assert winner.version == max(content.version for content in contents)
    assert {content for content in contents if content.precedence == winner.precedence} == {winner}
    ordered = sorted(contents, key=lambda content: content.precedence)
    assert np.all(np.diff([content.version for content in ordered]) >= 0)
