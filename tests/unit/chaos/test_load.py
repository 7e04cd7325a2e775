"""The load of a chaos run."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from tests.chaos.expected_rules import ExpectedEvent, read_message
from tests.chaos.load import Load, Shares, is_refused, shares_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW_MS = round(NOW.timestamp() * 1000)


def test_the_same_seed_makes_the_same_messages() -> None:
    """Two loads with one seed are equal, and two seeds make other messages."""
    first, again, other = (Load(seed, 2).take(500, NOW) for seed in (7, 7, 8))
    assert first == again != other


def test_the_shares_are_those_asked_for() -> None:
    """Each class has its share of the messages, within what chance allows for 20,000 of them."""
    shares = dict(shares_of(Load(1, 2).take(20_000, NOW)))
    asked = Shares()
    for name in ("repeated", "malformed", "poison", "refused", "conflicting", "revised"):
        assert abs(shares[name] - getattr(asked, name)) < 0.015, name


def test_only_malformed_messages_are_not_valid_events() -> None:
    """Poison passes validation, malformed messages do not, and the reasons are many."""
    reasons = set()
    for message in Load(2, 2, Shares(poison=0.1, refused=0.1)).take(5_000, NOW):
        read = read_message(message.value, NOW_MS)
        if message.made_for == "malformed":
            assert isinstance(read, str)
            reasons.add(read)
        elif message.made_for != "repeated":
            assert isinstance(read, ExpectedEvent)
            assert is_refused("", message.value) == (message.made_for == "refused")
    assert len(reasons) >= 10


def test_events_are_late_and_their_contents_change() -> None:
    """A fifth of the new events is up to 48 hours late; revisions gain and lose texts and items; some conflict."""
    contents = defaultdict(list)
    ages = []
    for message in Load(3, 2).take(10_000, NOW):
        event = read_message(message.value, NOW_MS)
        if isinstance(event, ExpectedEvent) and message.made_for != "repeated":
            contents[event.event_id].append(event)
            if message.made_for == "new":
                ages.append(timedelta(milliseconds=NOW_MS - event.occurred_at))
    late = sum(age > timedelta(minutes=1) for age in ages) / len(ages)
    assert 0.15 < late < 0.25
    assert max(ages) < timedelta(hours=48)
    pairs = [pair for events in contents.values() for pair in pairwise(events)]
    assert {(True, False), (False, True)} <= {(bool(a.text), bool(b.text)) for a, b in pairs}
    assert {(True, False), (False, True)} <= {(bool(a.item_id), bool(b.item_id)) for a, b in pairs}
    assert any(a.version == b.version and a.digest != b.digest for a, b in pairs)


def test_texts_never_run_out() -> None:
    """Every 1,000 messages bring new texts, so that each batch has something to embed."""
    load = Load(7, shards=2)
    seen: set[str] = set()
    for _ in range(10):
        values = [message.value for message in load.take(1_000, NOW)]
        texts = {event.text for value in values if isinstance(event := read_message(value, NOW_MS), ExpectedEvent)}
        assert len(texts - seen) > 5
        seen |= {text for text in texts if text is not None}
