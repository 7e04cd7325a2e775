"""The rule that all sinks follow, tested on the one that is fast enough for thousands of histories."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.domain.event import Event
from include.sinks.memory import MemorySink
from tests.contract.batches import batch_of, newest

CONTENTS = st.builds(
    Event,
    user_id=st.sampled_from(["u", "v"]),
    message_id=st.sampled_from(["1", "2", "3"]),
    kind=st.just("view"),
    occurred_at=st.integers(0, 3),
    version=st.integers(0, 2),
    text=st.sampled_from([None, "a", "b"]),
    item_id=st.sampled_from([None, "i", "j"]),
).filter(lambda event: event.text is not None or event.item_id is not None)

BATCHES = st.lists(st.lists(CONTENTS, min_size=1, max_size=4), max_size=6)


def _stage(batch: list[Event], stored: dict[str, Event]) -> list[Event]:
    """The events that staging passes on: one row per event, and none that a newer stored revision supersedes."""
    return [
        event
        for event in newest(batch).values()
        if event.event_id not in stored or event.precedence >= stored[event.event_id].precedence
    ]


@pytest.mark.parametrize("needs", [None, "text", "item_id"])
@settings(deadline=None)  # a busy machine is not a failure
@given(batches=BATCHES, repeat=st.booleans())
def test_order_and_batching_do_not_matter(needs: str | None, batches: list[list[Event]], repeat: bool) -> None:
    """In any order and batches, repeated or not, the newest revision of each identity is stored in the end."""
    sink = MemorySink("any", needs)
    stored: dict[str, Event] = {}
    for batch in batches:
        staged = _stage(batch, stored)
        for _ in range(1 + repeat):
            sink.upsert(batch_of(staged, replaces=True))
        stored = newest([*stored.values(), *staged])
    winners = newest(event for batch in batches for event in batch)
    expected = {
        event_id: (event.version, event.digest)
        for event_id, event in winners.items()
        if needs is None or getattr(event, needs) is not None
    }
    assert {event_id: (row["version"], row["digest"]) for event_id, row in sink.rows.items()} == expected
    assert sink.count() == len(expected)


ORDERS = st.lists(CONTENTS.filter(lambda event: event.text is not None), max_size=8).flatmap(
    lambda contents: st.tuples(st.just(contents), st.permutations(contents))
)


@settings(deadline=None)  # a busy machine is not a failure
@given(orders=ORDERS)
def test_the_sink_alone_resolves_contents_that_it_keeps(orders: tuple[list[Event], list[Event]]) -> None:
    """Even without staging, contents that all have the required field end the same in any order."""
    digests = []
    for order in orders:
        sink = MemorySink("any", "text")
        for event in order:
            sink.upsert(batch_of([event]))
        digests.append({event_id: row["digest"] for event_id, row in sink.rows.items()})
    assert digests[0] == digests[1]
