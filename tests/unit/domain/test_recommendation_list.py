"""Packed lists: what goes in comes out, versions compare as bytes, keys never collide."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from include.domain.recommendation_list import (
    ASKED_KEY,
    CURRENT_KEY,
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
def test_a_list_survives_packing(made: RecommendationList) -> None:
    """Unpacking what was packed gives the list."""
    assert unpack(pack(made)) == made


@given(lists, lists)
def test_packed_versions_compare_as_bytes(one: RecommendationList, other: RecommendationList) -> None:
    """The first eight bytes order packed lists as their times do."""
    assert (pack(one)[:8] < pack(other)[:8]) is (one.generated_at < other.generated_at)


def test_no_user_can_imitate_another_key() -> None:
    """Users named like our own keys, or like another's key, get keys of their own."""
    users = ["current", "asked", "popular", "g:u", "u", ":", "g"]
    keys = [list_key("g", user) for user in users]
    assert len({*keys, CURRENT_KEY, ASKED_KEY, popular_key("g")}) == len(users) + 3
