"""Turns ranked arrays into recommendation lists: texts, reasons, and popular items to fill them up."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from include.domain.ranking import Engagements, RankedItems
from include.domain.recommendation_list import MAX_ITEMS, RecommendationList, RecommendedItem, shorten_text
from include.ports import UserActivity

_TTL_JITTER = 0.15
#: One interval of the precompute's schedule, and two minutes for a run: until then the next list may not be there.
MIN_TTL_S = 420


class ListBuilder:
    """Builds the lists of one precompute run, with version ``computed_at``. ``popular``: (item, score), best first."""

    def __init__(self, activity: UserActivity, popular: Sequence[tuple[str, float]], computed_at: int) -> None:
        self._activity = activity
        self._popular = popular
        self._computed_at = computed_at

    def build_popular_list(self) -> RecommendationList:
        """The list for users without one of their own."""
        best = self._popular[:MAX_ITEMS]
        texts = self._read_texts([item for item, _ in best])
        return self._build([_popular_item(item, score, texts) for item, score in best])

    def build_lists(
        self, users: Sequence[str], ranked: Sequence[RankedItems], engagements: Engagements
    ) -> list[RecommendationList]:
        """One list per user, in order: items that similar users chose, then popular ones the user does not have."""
        own_items = _items_by_user(users, engagements)
        ranked_items = {engagements.items[item] for row in ranked for item in row.items}
        texts = self._read_texts(sorted(ranked_items.union(item for item, _ in self._popular)))
        return [
            self._build(self._fill_up(_similar_items(row, engagements, texts), own_items.get(user, set()), texts))
            for user, row in zip(users, ranked, strict=True)
        ]

    def _read_texts(self, items: Sequence[str]) -> Mapping[str, str]:
        return {item: shorten_text(text) for item, text in self._activity.read_item_texts(items).items()}

    def _fill_up(self, items: list[RecommendedItem], own: set[str], texts: Mapping[str, str]) -> list[RecommendedItem]:
        excluded = own.union(item.item_id for item in items)
        for item, score in self._popular:
            if len(items) >= MAX_ITEMS:
                break
            if item not in excluded:
                items.append(_popular_item(item, score, texts))
        return items

    def _build(self, items: list[RecommendedItem]) -> RecommendationList:
        personal = any(item.source == "similar_users" for item in items)
        return RecommendationList(self._computed_at, "similar_users" if personal else "popular", items)


def _popular_item(item: str, score: float, texts: Mapping[str, str]) -> RecommendedItem:
    return RecommendedItem(item, round(score, 6), texts.get(item), "popular", "popular lately")


def _similar_items(row: RankedItems, engagements: Engagements, texts: Mapping[str, str]) -> list[RecommendedItem]:
    items = []
    for index, score, supporters in zip(row.items, row.scores, row.supporters, strict=True):
        item = engagements.items[index]
        people = "1 person" if supporters == 1 else f"{supporters} people"
        reason = f"chosen by {people} with similar taste"
        items.append(RecommendedItem(item, round(float(score), 6), texts.get(item), "similar_users", reason))
    return items


def _items_by_user(users: Sequence[str], engagements: Engagements) -> dict[str, set[str]]:
    requested = set(users)
    items: dict[str, set[str]] = {}
    for user_index, item_index in zip(engagements.user_index, engagements.item_index, strict=True):
        user = engagements.users[user_index]
        if user in requested:
            items.setdefault(user, set()).add(engagements.items[item_index])
    return items


def list_ttl_s(user_id: str, computed_at: int, ttl_s: int) -> int:
    """Seconds until a list expires: up to 15 % less than ``ttl_s``, never below 7 minutes.

    It varies with a hash of user and run, so that lists written together do not expire together.
    """
    spread = hashlib.sha256(f"{computed_at}:{user_id}".encode()).digest()[0] / 255
    return max(MIN_TTL_S, round(ttl_s * (1 - _TTL_JITTER * spread)))
