"""Lists in memory, on a clock that the test controls: behaviour that the contract suite would have to wait for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.domain.recommendation_list import list_key, popular_key
from include.stores.memory_lists import MemoryLists


class Clock:
    """Seconds since 1970; a test sets ``now``."""

    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def packed(version: int) -> bytes:
    return version.to_bytes(8, "big")


def test_a_list_expires_when_its_ttl_is_over() -> None:
    """A list exists until exactly its TTL is over; after that, any version may be published."""
    clock = Clock()
    lists = MemoryLists(clock)
    lists.publish("g", {"u": packed(5)}, {"u": 60})
    clock.now += 59.9
    assert lists.get(list_key("g", "u")) == packed(5)
    clock.now += 0.1
    assert lists.get(list_key("g", "u")) is None
    assert lists.publish("g", {"u": packed(4)}, {"u": 60}) == 1


def test_an_older_list_does_not_extend_the_ttl() -> None:
    """Publishing an older list changes nothing, not even the TTL of the newer one."""
    clock = Clock()
    lists = MemoryLists(clock)
    lists.publish("g", {"u": packed(5)}, {"u": 60})
    lists.publish("g", {"u": packed(4)}, {"u": 900})
    assert lists.find_expiring("g", ["u"], 60) == ["u"]


def test_generations_are_separate() -> None:
    """Neither a user's list nor the popular list of one generation exists in another."""
    lists = MemoryLists(Clock())
    lists.publish("g", {"u": packed(1)}, {"u": 60})
    lists.publish_popular("g", packed(1), 60)
    assert lists.get(list_key("h", "u")) is None
    assert lists.get(popular_key("h")) is None
    assert lists.find_expiring("h", ["u"], 1) == ["u"]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=10))
@pytest.mark.parametrize("with_popular", [True, False])
def test_the_highest_version_wins(with_popular: bool, versions: list[int]) -> None:
    """The highest version wins whatever the order of arrival, for users' lists and the popular list."""
    lists = MemoryLists(Clock())
    for version in versions:
        lists.publish("g", {"u": packed(version)}, {"u": 60})
        if with_popular:
            lists.publish_popular("g", packed(version), 60)
    assert lists.get(list_key("g", "u")) == packed(max(versions))
    assert lists.get(popular_key("g")) == (packed(max(versions)) if with_popular else None)
