"""Which batch comes next: consecutive batches cover the topic, and missing messages stop the shard."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.domain.batch import BatchMode, BatchRef, next_batch
from include.domain.offsets import Offsets
from include.errors import OffsetsGoneError

#: The number of messages that arrive before each claim.
ARRIVALS = st.lists(st.integers(0, 50), min_size=1, max_size=30)


@given(st.integers(0, 2**40), ARRIVALS, st.integers(1, 40))
def test_batches_cover_the_topic(low: int, arrivals: list[int], limit: int) -> None:
    """Batches follow one another without gaps, are never empty or longer than the limit, and cover every offset."""
    high, last = low, None
    claimed: list[int] = []
    for arrived in [*arrivals, *[0] * (sum(arrivals) // limit + 2)]:
        high += arrived
        ref = next_batch("events", 3, last, Offsets(low, high), limit)
        if ref is None:
            assert high == (low if last is None else last), "no batch, although messages are waiting"
            continue
        assert (ref.topic, ref.shard, ref.mode) == ("events", 3, BatchMode.LIVE)
        assert 0 < ref.size <= limit
        claimed += range(ref.start, ref.end)
        last = ref.end
    assert claimed == list(range(low, high))


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 100), st.integers(1, 50))
def test_retention_of_messages_already_read_changes_nothing(low: int, last: int, ahead: int, limit: int) -> None:
    """When retention removes messages that were read, the next batch still begins where the last one ended."""
    offsets = Offsets(min(low, last), last + ahead)
    assert next_batch("events", 0, last, offsets, limit) == BatchRef("events", 0, last, last + min(ahead, limit))


@given(st.integers(0, 100), st.integers(1, 100), st.integers(0, 100), st.integers(1, 50))
def test_retention_of_unread_messages_stops_the_shard(last: int, lost: int, left: int, limit: int) -> None:
    """Messages that were removed unread are never skipped silently: the error names them and the setting to raise."""
    low = last + lost
    with pytest.raises(OffsetsGoneError, match=rf"offsets {last} to {low} of events\[0\] .*retention\.ms"):
        next_batch("events", 0, last, Offsets(low, low + left), limit)


def test_the_first_batch_begins_at_the_low_watermark() -> None:
    """Messages that retention removed before the first run do not count as missing."""
    assert next_batch("events", 0, None, Offsets(700, 705), 50) == BatchRef("events", 0, 700, 705)
    assert next_batch("events", 0, None, Offsets(700, 700), 50) is None


@given(st.integers(0, 100), st.integers(1, 100))
def test_a_recreated_topic_stops_the_shard(high: int, ahead: int) -> None:
    """A ledger position beyond the end of the partition is an error, because waiting for it would never end."""
    with pytest.raises(OffsetsGoneError, match=rf"is {high + ahead}, .*ends at {high}: it lost acknowledged messages"):
        next_batch("events", 0, high + ahead, Offsets(0, high), 10)
