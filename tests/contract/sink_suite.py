"""The behaviour of every sink: subclass ``SinkSuite`` for a store in memory, ``ServerSinkSuite`` for a real server."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import pytest

from include.bootstrap import SinkSpec
from include.domain.event import Event
from include.errors import TransientError
from include.ports import Sink
from tests.contract.batches import batch_of, newest
from tests.contract.probes import Probe, Stored, StoredEvents

ODD_IDS = [
    'x" or 1==1 or "', "a'b", "back\\slash", '\\"', "line\nbreak\r\ttab", "{$ne: ''}", "`) DETACH DELETE u //",
    "你好", "e\u0301", "é", "\u2028", "\x01\x7f", " ", "😀" * 128, "$where", "a.b", "__proto__",
]  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A sink without any data from this test, and a probe that reads what it stores.

    Every user and item of the test starts with ``prefix``; ``has_items`` says whether the probe returns items.
    """

    sink: Sink
    probe: Probe
    prefix: str
    spec: SinkSpec
    has_items: bool = True

    def event(self, message: str = "m", *, user: str = "u", **fields: Any) -> Event:
        """An event of one of this test's users, with a text and an item unless the fields say otherwise."""
        item = fields.pop("item_id", "item")
        return Event(
            user_id=self.prefix + user,
            message_id=message,
            kind=fields.pop("kind", "purchase"),
            occurred_at=fields.pop("occurred_at", 1_300_000_000_123),
            text=fields.pop("text", "a text"),
            item_id=None if item is None else self.prefix + item,
            **fields,
        )

    def upsert(self, *events: Event, replaces: bool = False) -> int:
        return self.sink.upsert(batch_of(events, replaces=replaces))

    def expected(self, contents: Iterable[Event]) -> StoredEvents:
        """What the store must hold after these contents, in whatever order they came."""
        return {
            event_id: Stored(
                event.user_id,
                event.occurred_at,
                event.version,
                event.digest,
                event.item_id if self.has_items else None,
            )
            for event_id, event in newest(contents).items()
            if self.spec.needs is None or getattr(event, self.spec.needs) is not None
        }


class SinkSuite:
    """Subclasses define the fixture ``subject``."""

    def test_new_events_are_stored_and_counted(self, subject: Subject) -> None:
        """Stored events can be read back, and are counted at once."""
        before = subject.sink.count()
        events = [subject.event("m1"), subject.event("m2", user="v", item_id="other", text="another text", version=3)]
        assert subject.upsert(*events) == 2
        assert subject.probe.read() == subject.expected(events)
        assert subject.sink.count() - before == 2

    def test_a_repeated_batch_changes_nothing(self, subject: Subject) -> None:
        """A task that runs again finds its own rows and leaves them alone."""
        events = [subject.event(f"m{n}", user=f"u{n % 3}", version=n % 2) for n in range(20)]
        assert subject.upsert(*events) == subject.upsert(*events) == subject.upsert(*events, replaces=True) == 20
        assert subject.probe.read() == subject.expected(events)

    def test_batches_may_overlap(self, subject: Subject) -> None:
        """Events that an earlier batch already contained are stored once."""
        events = [subject.event(f"m{n}") for n in range(6)]
        subject.upsert(*events[:4])
        subject.upsert(*events[2:])
        assert subject.probe.read() == subject.expected(events)

    @pytest.mark.parametrize("field", ["version", "value"])
    def test_the_newest_revision_wins_in_any_order(self, subject: Subject, field: str) -> None:
        """Of the revisions of one event the highest (version, digest) stays, including its item and text."""
        orders = [_contents(subject, f"m{number}", field, order) for number, order in enumerate(permutations(range(3)))]
        for step, contents in enumerate(zip(*orders, strict=True)):
            subject.upsert(*contents, replaces=step > 0)
        assert subject.probe.read() == subject.expected(content for contents in orders for content in contents)

    def test_a_correction_without_the_replaces_flag_wins_too(self, subject: Subject) -> None:
        """The sink compares revisions itself: another run may store an older one between staging and writing."""
        contents = [subject.event(item_id="i0"), subject.event(item_id="i1", version=1)]
        for content in contents:
            subject.upsert(content)
        assert subject.probe.read() == subject.expected(contents)

    def test_a_store_keeps_only_the_events_it_needs(self, subject: Subject) -> None:
        """An event without the field that the store needs is not stored, and not counted in the result."""
        events = [subject.event("text only", item_id=None), subject.event("item only", text=None)]
        assert subject.upsert(*events) == len(subject.expected(events))
        assert subject.probe.read() == subject.expected(events)

    def test_a_revision_without_the_required_field_removes_the_older_one(self, subject: Subject) -> None:
        """When a correction drops the text or the item, nothing of the older revision stays."""
        contents = [subject.event(), subject.event(text=None, version=1, item_id="kept")]
        if subject.spec.needs == "item_id":
            contents[1] = subject.event(item_id=None, version=1)
        subject.upsert(contents[0], subject.event("neighbour"))
        subject.upsert(contents[1], replaces=True)
        assert subject.probe.read() == subject.expected([*contents, subject.event("neighbour")])

    def test_a_replayed_winner_removes_what_a_late_run_left(self, subject: Subject) -> None:
        """A run that wakes up late may store a losing content; the winner, staged again, replaces or removes it."""
        winners = [subject.event("m1", text=None, version=1), subject.event("m2", item_id=None, version=1)]
        losers = [subject.event("m1"), subject.event("m2")]
        subject.upsert(*winners)
        subject.upsert(*losers)
        for _ in range(2):
            subject.upsert(*winners, replaces=True)
        assert subject.probe.read() == subject.expected(winners)

    def test_an_older_revision_removes_nothing(self, subject: Subject) -> None:
        """A correction that is itself outdated leaves the newer revision alone."""
        newer = subject.event(version=2)
        subject.upsert(newer)
        subject.upsert(subject.event(text=None, version=1), replaces=True)
        subject.upsert(subject.event(item_id=None, version=1), replaces=True)
        assert subject.probe.read() == subject.expected([newer])

    def test_deleted_events_are_gone(self, subject: Subject) -> None:
        """Those that are not stored, or were deleted before, change nothing."""
        events = [subject.event(f"m{n}", user=f"u{n}") for n in range(6)]
        subject.upsert(*events)
        before = subject.sink.count()
        rows = batch_of([*events[:4], subject.event("unknown")]).events
        assert subject.sink.delete(rows) == 4
        assert subject.probe.read() == subject.expected(events[4:])
        assert subject.sink.count() == before - 4
        assert subject.sink.delete(rows) == subject.sink.delete(rows.slice(0, 0)) == 0

    def test_a_newer_revision_is_not_deleted(self, subject: Subject) -> None:
        """A late deletion of an older revision leaves what has been stored since; a newer one deletes what is older."""
        older, newer = subject.event("m1"), subject.event("m1", version=1)
        other = subject.event("m2")
        subject.upsert(newer, other)
        rows = batch_of([older, subject.event("m2", version=1)]).events
        assert subject.sink.delete(rows.select(["event_id", "user_id", "version", "digest"])) == 1
        assert subject.probe.read() == subject.expected([newer])

    def test_ids_are_stored_unchanged(self, subject: Subject) -> None:
        """Quotes, operators, line breaks and all of Unicode are ordinary characters of an id."""
        # The prefix uses some of the 128 characters.
        ids = [odd[: 128 - len(subject.prefix)] for odd in ODD_IDS]
        events = [subject.event(odd, user=odd, item_id=odd, text=f"text {odd}") for odd in ids]
        subject.upsert(*events)
        subject.upsert(*events)
        assert subject.probe.read() == subject.expected(events)

    def test_times_from_year_1_to_9999_are_exact_to_the_millisecond(self, subject: Subject) -> None:
        """No store rounds a time, or loses one before 1970."""
        times = [-62_135_596_800_000, -1, 0, 1_300_000_000_123, 253_402_300_799_999]
        events = [subject.event(f"m{n}", occurred_at=time) for n, time in enumerate(times)]
        subject.upsert(*events)
        assert subject.probe.read() == subject.expected(events)

    def test_a_batch_may_be_empty(self, subject: Subject) -> None:
        """A batch whose messages were all dead letters stores nothing and does not fail."""
        assert subject.upsert() == 0
        assert subject.probe.read() == {}

    def test_a_batch_may_be_larger_than_any_request(self, subject: Subject) -> None:
        """A batch that is split into several requests is stored completely."""
        events = [
            subject.event(f"m{n}", user=f"u{n % 97}", item_id=f"i{n % 31}", text=f"text {n % 7}") for n in range(11_000)
        ]
        before = subject.sink.count()
        assert subject.upsert(*events) == 11_000
        assert subject.sink.count() - before == 11_000
        assert subject.upsert(*events[5_000:6_000]) == 1_000
        assert subject.sink.count() - before == 11_000


class ServerSinkSuite(SinkSuite):
    """The suite for a sink on a real server."""

    def open_unavailable(self) -> Sink:
        """A sink whose address nobody listens on, with a timeout of a few seconds."""
        raise NotImplementedError

    def test_an_unavailable_server_is_transient(self) -> None:
        """The task is retried, and fails within a bounded time."""
        events = batch_of([Event(user_id="u", message_id="m", kind="view", occurred_at=0, item_id="i", text="t")])
        with pytest.raises(TransientError), closing(self.open_unavailable()) as sink:
            sink.upsert(events)


def _contents(subject: Subject, message: str, field: str, order: Iterable[int]) -> list[Event]:
    """Contents of one event that differ in everything, in that order."""
    changes: dict[str, dict[str, Any]] = {"version": {"version": 1}, "value": {"value": 1.5}}
    return [
        subject.event(
            message,
            item_id=f"i{n}",
            text=f"text {n}",
            occurred_at=n,
            **{name: n * step for name, step in changes[field].items()},
        )
        for n in order
    ]
