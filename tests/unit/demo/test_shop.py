"""The demo's shop."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo.malformed import MALFORMED
from demo.recount import value_reason
from demo.shop import Shop
from include.domain.event import Event, InvalidEventError, decode

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
NOW_MS = round(NOW.timestamp() * 1000)


def decoded(lines: list[bytes]) -> list[Event]:
    """The lines that are events in shape and values."""
    events = []
    for line in lines:
        try:
            event = decode(line)
        except InvalidEventError:
            continue
        if value_reason(event, NOW_MS) is None:
            events.append(event)
    return events


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    return list(Shop().lines(NOW))


@pytest.fixture(scope="module")
def events(lines: list[bytes]) -> list[Event]:
    return decoded(lines)


def test_same_seed_gives_the_same_bytes(lines: list[bytes]) -> None:
    """Two shops of one seed, one size and one moment sell the same."""
    assert list(Shop().lines(NOW)) == lines


def test_another_seed_gives_another_shop(lines: list[bytes]) -> None:
    """The seed decides what happens."""
    assert list(Shop(seed=8).lines(NOW)) != lines


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(60, 600))
@settings(max_examples=20, deadline=None)
def test_counts_follow_from_the_sizes(seed: int, users: int, count: int) -> None:
    """Of any shop, exactly 1 % of the lines are malformed, 3 % repeats, and each other one is an event of its own."""
    lines = list(Shop(seed, users, count).lines(NOW))
    events = decoded(lines)
    malformed, repeats = round(count * 0.01), round(count * 0.03)
    assert len(lines) == count
    assert len(events) == count - malformed
    assert len({(event.user_id, event.message_id) for event in events}) == count - malformed - repeats


@given(st.integers(-10_000, 25_000))
@settings(max_examples=10, deadline=None)
def test_the_moment_changes_times_only(days: int) -> None:
    """Whenever it is run, the same seed gives the same identities: figures can be compared between runs."""
    shop, now = Shop(users=20, events=300), NOW + timedelta(days=days)
    one = [(event.user_id, event.message_id, event.kind, event.text) for event in decoded(list(shop.lines(NOW)))]
    lines = list(shop.lines(now))
    other = [decode(line) for line in lines if line in _valid(lines, now)]
    assert [(event.user_id, event.message_id, event.kind, event.text) for event in other] == one


def _valid(lines: list[bytes], now: datetime) -> set[bytes]:
    valid = set()
    for line in lines:
        try:
            event = decode(line)
        except InvalidEventError:
            continue
        if value_reason(event, round(now.timestamp() * 1000)) is None:
            valid.add(line)
    return valid


def test_the_default_shop_has_what_the_demo_promises(lines: list[bytes], events: list[Event]) -> None:
    """2,000 users, every known kind, short texts of real words and few of them, campaigns, values, versions, extras."""
    texts = {event.text for event in events if event.text}
    assert len({event.user_id for event in events}) == 2_000
    assert {event.kind for event in events} == {"message", "view", "click", "like", "share", "purchase", "return"}
    assert 1_000 < len(texts) <= 2_000
    assert max(map(len, texts)) < 100
    assert any(event.campaign_id for event in events)
    assert any(event.version for event in events)
    assert any(event.extra for event in events)
    assert all((event.value or 0) > 0 for event in events if event.kind == "purchase")


def test_stores_will_differ(events: list[Event]) -> None:
    """Some events have no text and some no item, so that a store that takes the wrong ones is found out."""
    assert any(event.text is None for event in events)
    assert any(event.item_id is None for event in events)


def test_times_lie_in_the_weeks_before_now(events: list[Event]) -> None:
    """Nothing happens after the moment given, and nothing long before it."""
    times = [event.occurred_at for event in events]
    assert max(times) <= NOW_MS
    assert min(times) >= NOW_MS - timedelta(weeks=4).total_seconds() * 1000


def test_ten_kinds_of_malformed_lines_in_equal_parts(lines: list[bytes]) -> None:
    """Each malformed line is found out for the reason it was made for."""
    found: Counter[str] = Counter()
    for line in lines:
        try:
            event = decode(line)
        except InvalidEventError as error:
            found[error.reason] += 1
        else:
            reason = value_reason(event, NOW_MS)
            found[reason or ""] += reason is not None
    assert len(MALFORMED) == 10
    assert +found == dict.fromkeys(MALFORMED, 20)


def test_repeats_are_copies_and_corrections(lines: list[bytes], events: list[Event]) -> None:
    """Two thirds of the repeats are byte for byte the same; the others have a higher version and another content."""
    by_identity: dict[tuple[str, str], list[Event]] = {}
    for event in events:
        by_identity.setdefault((event.user_id, event.message_id), []).append(event)
    repeated = [same for same in by_identity.values() if len(same) > 1]
    copies = [same for same in repeated if same[0] == same[1]]
    corrected = [same for same in repeated if same[0].version != same[1].version]
    assert len(repeated) == 600
    assert len(copies) == 400
    assert len(corrected) == 200
    assert len(lines) - len(set(lines)) == 400
    assert any(first.version > second.version for first, second in corrected), "a correction overtakes what it corrects"


def test_users_have_tastes(events: list[Event]) -> None:
    """Two thirds of what a user looks at is of one category: the first two digits of an item."""
    items: dict[str, Counter[str]] = {}
    for event in events:
        if event.item_id:
            items.setdefault(event.user_id, Counter())[event.item_id[:2]] += 1
    busy = [found for found in items.values() if found.total() >= 20]
    shares = [found.most_common(1)[0][1] / found.total() for found in busy]
    assert sum(shares) / len(shares) > 0.5


def test_lines_have_no_line_end(lines: list[bytes]) -> None:
    """A line can be written to a file as it is."""
    assert not any(b"\n" in line for line in lines)
    assert msgspec.json.decode(lines[0])["user_id"].startswith("user-")
