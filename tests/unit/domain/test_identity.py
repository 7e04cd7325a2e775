"""Identities: computed, the same on every machine, and unique."""

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
    """The hash of each key is the one that the tests of Kafka's Java client expect."""
    assert murmur2(key) == expected % 2**32


@given(ids, ids, ids, ids)
def test_event_ids_are_unique(user: str, message: str, other_user: str, other_message: str) -> None:
    """Two event ids are equal exactly when user and message are equal."""
    is_same = (user, message) == (other_user, other_message)
    assert (event_id(user, message) == event_id(other_user, other_message)) is is_same


def test_event_ids_depend_on_where_the_user_id_ends() -> None:
    """Moving a character from the message id to the user id gives a different event id."""
    assert event_id("a", "bc") != event_id("ab", "c")


@given(ids, st.integers(min_value=1, max_value=4096))
def test_a_user_has_one_shard(user: str, shards: int) -> None:
    """Every user belongs to exactly one existing shard."""
    assert shard_of(user, shards) in range(shards)
    assert shard_of(user, shards) == shard_of(user, shards)
