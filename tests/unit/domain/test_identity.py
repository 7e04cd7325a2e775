"""Identities: computed, the same everywhere, never shared by two different things."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.domain.identity import event_id, murmur2, shard_of

ids = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=128)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_matches_kafka(key: bytes, expected: int) -> None:
    """The hash of a key is the one that Kafka's own tests expect of its Java clients."""
    assert murmur2(key) == expected % 2**32


@given(ids, ids, ids, ids)
def test_two_identities_have_two_ids(user: str, message: str, other_user: str, other_message: str) -> None:
    """Event ids are equal exactly when user and message are."""
    same = (user, message) == (other_user, other_message)
    assert (event_id(user, message) == event_id(other_user, other_message)) is same


def test_the_border_between_user_and_message_counts() -> None:
    """Moving a character from the message to the user gives another id."""
    assert event_id("a", "bc") != event_id("ab", "c")


@given(ids, st.integers(min_value=1, max_value=4096))
def test_a_user_has_one_shard(user: str, shards: int) -> None:
    """Every user lies on exactly one of the shards there are."""
    assert shard_of(user, shards) in range(shards)
    assert shard_of(user, shards) == shard_of(user, shards)
