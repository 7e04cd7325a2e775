"""The demo's simulated shop."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo.malformed import MALFORMED
from demo.recount import find_broken_rule
from demo.shop import Shop
from include.domain.event import Event, InvalidEventError, decode

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
NOW_MS = round(NOW.timestamp() * 1000)


def decode_valid(lines: list[bytes], now_ms: int = NOW_MS) -> list[Event]:
    """Returns the valid events."""
    events = []
    for line in lines:
        try:
            event = decode(line)
        except InvalidEventError:
            continue
        if find_broken_rule(event, now_ms) is None:
            events.append(event)
    return events


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    return list(Shop().lines(NOW))


@pytest.fixture(scope="module")
def events(lines: list[bytes]) -> list[Event]:
    return decode_valid(lines)


def test_same_seed_gives_the_same_bytes(lines: list[bytes]) -> None:
    """The same seed, sizes and time give the same lines."""
    assert list(Shop().lines(NOW)) == lines


def test_another_seed_gives_another_shop(lines: list[bytes]) -> None:
    """A different seed gives different lines."""
    assert list(Shop(seed=8).lines(NOW)) != lines


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(60, 600))
@settings(max_examples=20, deadline=None)
def test_counts_follow_from_the_sizes(seed: int, users: int, count: int) -> None:
    """In any shop exactly 1 % of the lines are malformed, 3 % are duplicates, and the others are distinct events."""
    lines = list(Shop(seed, users, count).lines(NOW))
    events = decode_valid(lines)
    malformed, duplicates = round(count * 0.01), round(count * 0.03)
    assert len(lines) == count
    assert len(events) == count - malformed
    assert len({(event.user_id, event.message_id) for event in events}) == count - malformed - duplicates


@given(st.integers(-10_000, 25_000))
@settings(max_examples=10, deadline=None)
def test_only_timestamps_depend_on_the_time(days: int) -> None:
    """The same seed gives the same events at any time, so counts can be compared between runs."""
    shop, later = Shop(users=20, events=300), NOW + timedelta(days=days)
    first = decode_valid(list(shop.lines(NOW)))
    second = decode_valid(list(shop.lines(later)), round(later.timestamp() * 1000))
    assert [(event.user_id, event.message_id, event.kind, event.text) for event in second] == [
        (event.user_id, event.message_id, event.kind, event.text) for event in first
    ]


def test_the_default_shop_covers_every_field(events: list[Event]) -> None:
    """The default shop has 2,000 users, every kind, up to 2,000 short texts, campaigns, values, versions and extras."""
    texts = {event.text for event in events if event.text}
    assert len({event.user_id for event in events}) == 2_000
    assert {event.kind for event in events} == {"message", "view", "click", "like", "share", "purchase", "return"}
    assert 1_000 < len(texts) <= 2_000
    assert max(map(len, texts)) < 100
    assert any(event.campaign_id for event in events)
    assert any(event.version for event in events)
    assert any(event.extra for event in events)
    assert all((event.value or 0) > 0 for event in events if event.kind == "purchase")


def test_stores_get_different_events(events: list[Event]) -> None:
    """Some events have no text and some no item, so a store that takes the wrong ones is noticed."""
    assert any(event.text is None for event in events)
    assert any(event.item_id is None for event in events)


def test_events_are_from_the_last_four_weeks(events: list[Event]) -> None:
    """No event is later than the given time or more than four weeks earlier."""
    times = [event.occurred_at for event in events]
    assert max(times) <= NOW_MS
    assert min(times) >= NOW_MS - timedelta(weeks=4).total_seconds() * 1000


def test_ten_kinds_of_malformed_lines_in_equal_shares(lines: list[bytes]) -> None:
    """Each malformed line is rejected for the intended reason."""
    reasons: Counter[str] = Counter()
    for line in lines:
        try:
            event = decode(line)
        except InvalidEventError as error:
            reasons[error.reason] += 1
        else:
            reason = find_broken_rule(event, NOW_MS)
            reasons[reason or ""] += reason is not None
    assert len(MALFORMED) == 10
    assert +reasons == dict.fromkeys(MALFORMED, 20)


def test_duplicates_are_copies_and_corrections(lines: list[bytes], events: list[Event]) -> None:
    """Two thirds of the duplicates are exact copies; the others have a higher version and different content."""
    by_identity: dict[tuple[str, str], list[Event]] = {}
    for event in events:
        by_identity.setdefault((event.user_id, event.message_id), []).append(event)
    pairs = [same for same in by_identity.values() if len(same) > 1]
    copies = [(first, second) for first, second in pairs if first == second]
    corrections = [(first, second) for first, second in pairs if first.version != second.version]
    assert len(pairs) == 600
    assert len(copies) == 400
    assert len(corrections) == 200
    assert len(lines) - len(set(lines)) == 400
    assert any(first.version > second.version for first, second in corrections), "some corrections come first"


def test_users_have_preferences(events: list[Event]) -> None:
    """Most of a user's items are from one category, which is the first two digits of the item id."""
    categories: dict[str, Counter[str]] = {}
    for event in events:
        if event.item_id:
            categories.setdefault(event.user_id, Counter())[event.item_id[:2]] += 1
    active = [counts for counts in categories.values() if counts.total() >= 20]
    shares = [counts.most_common(1)[0][1] / counts.total() for counts in active]
    assert sum(shares) / len(shares) > 0.5


def test_lines_have_no_line_endings(lines: list[bytes]) -> None:
    """Each line is one JSON object without a line break."""
    assert not any(b"\n" in line for line in lines)
    assert msgspec.json.decode(lines[0])["user_id"].startswith("user-")
