"""Recommendation lists for tests: any, and some that are easily told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import strategies as st

from include.domain.recommendation_list import (
    MAX_ITEMS,
    VERSION_BYTES,
    ItemSource,
    ListSource,
    RecommendationList,
    RecommendedItem,
    pack,
)

#: 2026-03-01T09:31:12.345Z
NOW = 1_772_357_472_345
#: The year 2200: far enough.
_LAST_MS = 7_258_118_400_000
_SOURCES = st.sampled_from(["similar_users", "popular"])

any_item = st.builds(
    RecommendedItem,
    item_id=st.text(),
    score=st.floats(allow_nan=False, allow_infinity=False),
    text=st.none() | st.text(),
    source=_SOURCES,
    reason=st.text(),
)
any_list = st.builds(
    RecommendationList,
    generated_at=st.integers(0, _LAST_MS),
    source=_SOURCES,
    items=st.lists(any_item, max_size=8) | st.lists(any_item, min_size=MAX_ITEMS, max_size=MAX_ITEMS),
)
any_limit = st.integers(1, MAX_ITEMS)


def packed(*names: str, source: ListSource = "similar_users") -> bytes:
    """A packed list of these items."""
    items = [RecommendedItem(name, 1.0, None, source, "because") for name in names]
    return pack(RecommendationList(1_764_000_000_000, source, items))


def foreign(items: Sequence[Any]) -> bytes:
    """What is packed like a list, whatever its items are."""
    return bytes(VERSION_BYTES) + msgspec.msgpack.encode([1_764_000_000_000, "popular", items])


def names(items: bytes) -> list[str]:
    """The items of an answer."""
    return [item["item_id"] for item in msgspec.json.decode(items)]


def a_list(
    name: str, count: int = MAX_ITEMS, source: ListSource = "similar_users", at: int = NOW
) -> RecommendationList:
    """A list whose items are called so; every second text is absent, and the last item is a popular one."""

    def item(index: int) -> RecommendedItem:
        kind: ItemSource = "popular" if index == count - 1 else "similar_users"
        text = None if index % 2 else f"“{name}” é {index}"
        return RecommendedItem(f"{name}-{index}", count - index + 0.125, text, kind, "why")

    return RecommendationList(at, source, [item(index) for index in range(count)])


def shown(made: RecommendationList, limit: int = 10) -> list[dict[str, Any]]:
    """The items as an answer should have them."""
    return [
        {"item_id": item.item_id, "score": item.score, "text": item.text, "source": item.source, "reason": item.reason}
        for item in made.items[:limit]
    ]
