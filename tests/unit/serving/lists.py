"""Recommendation lists for tests: arbitrary ones, and some that are easy to tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

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
#: Just before the year 2200, to stay within the range of timestamps that can be formatted.
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


def pack_items(*item_ids: str, source: Literal["similar_users", "popular"] = "similar_users") -> bytes:
    """Pack a list of these items."""
    items = [RecommendedItem(item_id, 1.0, None, source, "because") for item_id in item_ids]
    return pack(RecommendationList(1_764_000_000_000, source, items))


def pack_raw(items: Sequence[Any]) -> bytes:
    """Pack arbitrary values in place of items."""
    return bytes(VERSION_BYTES) + msgspec.msgpack.encode([1_764_000_000_000, "popular", items])


def get_item_ids(items_json: bytes) -> list[str]:
    """Extract the item ids from rendered items."""
    return [item["item_id"] for item in msgspec.json.decode(items_json)]


def make_list(
    name: str, count: int = MAX_ITEMS, source: ListSource = "similar_users", at: int = NOW
) -> RecommendationList:
    """Make a list whose item ids begin with ``name``; every other text is missing, and the last item is popular."""

    def make_item(index: int) -> RecommendedItem:
        item_source: ItemSource = "popular" if index == count - 1 else "similar_users"
        text = None if index % 2 else f"“{name}” é {index}"
        return RecommendedItem(f"{name}-{index}", count - index + 0.125, text, item_source, "why")

    return RecommendationList(at, source, [make_item(index) for index in range(count)])


def to_json_items(recommendations: RecommendationList, limit: int = 10) -> list[dict[str, Any]]:
    """Build the items that the response should contain."""
    return [
        {"item_id": item.item_id, "score": item.score, "text": item.text, "source": item.source, "reason": item.reason}
        for item in recommendations.items[:limit]
    ]
