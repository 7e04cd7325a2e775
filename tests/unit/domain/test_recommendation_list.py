"""Packed lists: packing round-trips, versions compare as bytes, and keys never collide."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from include.domain.recommendation_list import (
    CURRENT_KEY,
    RECENT_READERS_KEY,
    RecommendationList,
    RecommendedItem,
    list_key,
    pack,
    popular_key,
    unpack,
)

items = st.builds(
    RecommendedItem,
    item_id=st.text(max_size=10),
    score=st.floats(allow_nan=False),
    text=st.none() | st.text(max_size=10),
    source=st.sampled_from(["similar_users", "popular"]),
    reason=st.text(max_size=10),
)
lists = st.builds(
    RecommendationList,
    generated_at=st.integers(0, 2**60),
    source=st.sampled_from(["similar_users", "popular"]),
    items=st.lists(items, max_size=5),
)


@given(lists)
def test_packing_round_trips(recommendations: RecommendationList) -> None:
    """Unpacking a packed list gives the same list."""
    assert unpack(pack(recommendations)) == recommendations


@given(lists, lists)
def test_packed_versions_compare_as_bytes(one: RecommendationList, other: RecommendationList) -> None:
    """The first eight bytes order packed lists by their generation time."""
    assert (pack(one)[:8] < pack(other)[:8]) is (one.generated_at < other.generated_at)


def test_no_user_id_collides_with_another_key() -> None:
    """User ids that look like Millrace's own keys, or like another user's key, get distinct keys."""
    users = ["current", "recent-readers", "popular", "g:u", "u", ":", "g"]
    keys = [list_key("g", user) for user in users]
    assert len({*keys, CURRENT_KEY, RECENT_READERS_KEY, popular_key("g")}) == len(users) + 3
