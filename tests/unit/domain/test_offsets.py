"""Which batch comes next: consecutive ones cover a topic, and what is missing stops the shard."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.domain.batch import BatchMode, BatchRef
from include.domain.offsets import Offsets, next_batch
from include.errors import OffsetsGoneError

#: How many messages come in before each claim.
ARRIVALS = st.lists(st.integers(0, 50), min_size=1, max_size=30)


@given(st.integers(0, 2**40), ARRIVALS, st.integers(1, 40))
def test_batches_cover_the_topic(low: int, arrivals: list[int], limit: int) -> None:
    """Each begins where the last ended, is not empty, holds at most the limit, and together they hold everything."""
    high, last = low, None
    claimed: list[int] = []
    for arrived in [*arrivals, *[0] * (sum(arrivals) // limit + 2)]:
        high += arrived
        ref = next_batch("events", 3, last, Offsets(low, high), limit)
        if ref is None:
            assert high == (low if last is None else last), "there was something to read"
            continue
        assert (ref.topic, ref.shard, ref.mode) == ("events", 3, BatchMode.LIVE)
        assert 0 < ref.size <= limit
        claimed += range(ref.start, ref.end)
        last = ref.end
    assert claimed == list(range(low, high))


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 100), st.integers(1, 50))
def test_retention_within_what_was_read_changes_nothing(low: int, last: int, ahead: int, limit: int) -> None:
    """That messages before the ledger's end go is the ordinary course: the next batch begins where the last ended."""
    at = Offsets(min(low, last), last + ahead)
    assert next_batch("events", 0, last, at, limit) == BatchRef("events", 0, last, last + min(ahead, limit))


@given(st.integers(0, 100), st.integers(1, 100), st.integers(0, 100), st.integers(1, 50))
def test_retention_beyond_what_was_read_stops_the_shard(last: int, lost: int, left: int, limit: int) -> None:
    """Messages that were removed unread are never skipped in silence: the error has what is lost and what to raise."""
    low = last + lost
    with pytest.raises(OffsetsGoneError, match=rf"offsets {last} to {low} of events\[0\] .*retention\.ms"):
        next_batch("events", 0, last, Offsets(low, low + left), limit)


def test_the_first_batch_begins_with_what_is_there() -> None:
    """What retention took before the first run was never promised to anyone."""
    assert next_batch("events", 0, None, Offsets(700, 705), 50) == BatchRef("events", 0, 700, 705)
    assert next_batch("events", 0, None, Offsets(700, 700), 50) is None


@given(st.integers(0, 100), st.integers(1, 100))
def test_a_topic_made_anew_stops_the_shard(high: int, ahead: int) -> None:
    """A ledger ahead of its topic counts in another one: the error says so instead of waiting for ever."""
    with pytest.raises(OffsetsGoneError, match=rf"stands at {high + ahead} .*ends at {high}: the topic was made anew"):
        next_batch("events", 0, high + ahead, Offsets(0, high), 10)
