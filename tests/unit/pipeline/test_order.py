"""The same events leave the same contents in every store, whatever the order, batches, crashes and replays."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.pipeline.histories import (
    MESSAGES,
    OVERLAPPING_STEPS,
    SERIAL_STEPS,
    Finish,
    Publish,
    Start,
    Step,
    Write,
    check_overlapping,
    check_serial,
    payload,
    perform,
    valid_events,
    winning_digests,
)

#: An event loses its text, then its item.
_INTERRUPTED = [
    payload(message_id="a", version=version, text=text, item_id=item)
    for version, (text, item) in enumerate([("x", "i"), (None, "j"), ("y", None)])
]
_UNTIL_WAREHOUSE = Write(0, ("warehouse",))
#: The first content has a text and an item; the second, which wins, lacks the text, and in the other pair the item.
_LOSES_TEXT = [payload(message_id="a", text="x", item_id="i"), payload(message_id="a", version=1, item_id="i")]
_LOSES_ITEM = [payload(message_id="a", text="x", item_id="i"), payload(message_id="a", version=1, text="x")]
_TO_GRAPH = Write(0, ("milvus", "neo4j"))
#: A live batch dies with the losing content in Milvus and Neo4j, and a range run brings the winner.
_RANGE_OVERTAKES = [Publish(), Start(), _TO_GRAPH, Publish(), Start(range=(1, 2)), Finish()]
#: A range run dies with it, and one live batch brings both.
_RANGE_DIES = [Publish(), Publish(), Start(range=(0, 1)), _TO_GRAPH]
#: A backfill writes it after a live run has stored the winner.
_BACKFILL_IS_LATE = [
    *(Publish(), Start(), Finish(), Start(range=(0, 1))),
    *(Publish(), Start(), Finish(), Write(1, ("milvus", "neo4j"))),
]


@settings(deadline=None, max_examples=80)  # a busy machine is not a failure
@given(MESSAGES, SERIAL_STEPS, st.randoms(use_true_random=False))
def test_every_store_converges_whatever_happened(messages: list[bytes], steps: list[Step], random: Any) -> None:
    """Order, batch sizes, live and range runs that die between two stores make no difference to the final contents."""
    undisturbed = check_serial(messages, [])
    disturbed = check_serial(random.sample(messages, len(messages)), steps)
    assert disturbed.contents() == undisturbed.contents()


@settings(deadline=None, max_examples=150)  # a busy machine is not a failure
@example(_INTERRUPTED, [Publish(), Start(), Finish(), *[Publish(), Start(), _UNTIL_WAREHOUSE] * 2])
@example(_LOSES_TEXT, _RANGE_OVERTAKES)
@example(_LOSES_ITEM, _RANGE_OVERTAKES)
@example(_LOSES_TEXT, _RANGE_DIES)
@example(_LOSES_ITEM, _RANGE_DIES)
@given(MESSAGES, SERIAL_STEPS)
def test_drained_runs_leave_the_winners_everywhere(messages: list[bytes], steps: list[Step]) -> None:
    """Each store has the winning revision of each identity, or nothing if that content lacks the required field."""
    check_serial(messages, steps)


@settings(deadline=None, max_examples=100)  # a busy machine is not a failure
@example(_LOSES_TEXT, _BACKFILL_IS_LATE)
@example(_LOSES_ITEM, _BACKFILL_IS_LATE)
@given(MESSAGES, OVERLAPPING_STEPS)
def test_a_replay_cures_what_late_writes_left(messages: list[bytes], steps: list[Step]) -> None:
    """A backfill that dies beside a live run may leave a losing content, but never for ever."""
    check_overlapping(messages, steps)


#: Range runs and tasks that write the first content after a live run has written the second.
_LATE = {
    "a backfill finishes after a live run": [
        *(Publish(), Start(), Finish(), Start(range=(0, 1))),
        *(Publish(), Start(), Finish(), Finish(1)),
    ],
    "a backfill finishes within a live run": [
        *(Publish(), Start(), Finish(), Start(range=(0, 1))),
        *(Publish(), Start(), _TO_GRAPH, Finish(1), Finish()),
    ],
    "a task wakes up after the next batch": [
        *(Publish(), Start(), Start(), Finish()),
        *(Publish(), Start(), Finish(), Write(2, ("milvus", "neo4j"))),
    ],
    "a task wakes up within the next batch": [
        *(Publish(), Start(), Start(), Finish()),
        *(Publish(), Start(), _TO_GRAPH, Write(2, ("milvus", "neo4j")), Finish()),
    ],
}


@pytest.mark.parametrize("messages", [_LOSES_TEXT, _LOSES_ITEM], ids=["loses its text", "loses its item"])
@pytest.mark.parametrize("steps", _LATE.values(), ids=_LATE.keys())
def test_late_runs_settle_what_they_leave(messages: list[bytes], steps: list[Step]) -> None:
    """A run that writes a losing content last removes it, or the run of the winner does: without any replay."""
    pipeline = perform(messages, steps)
    pipeline.drain()
    assert pipeline.digests() == winning_digests(messages)


@settings(deadline=None, max_examples=50)  # a busy machine is not a failure
@given(MESSAGES, SERIAL_STEPS)
def test_every_invalid_message_is_a_dead_letter(messages: list[bytes], steps: list[Step]) -> None:
    """However often a batch is staged, each invalid message is one dead letter, and each is read once."""
    pipeline = perform(messages, steps)
    pipeline.drain()
    bad = len(messages) - len(valid_events(messages))
    origins = {letter.origin for letter in pipeline.letters.letters}
    assert len(origins) == len(list(pipeline.letters.read())) == bad
