"""Ranked arrays into recommendation lists: texts, reasons, and popular items where similar users give too few."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from include.domain.ranking import Engagements, Ranked
from include.domain.recommendation_list import MAX_ITEMS, RecommendationList, RecommendedItem
from include.ports import Audience

_TTL_JITTER = 0.15
_LEAST_TTL_S = 300


class ListMaker:
    """Makes the lists of one precompute run, of version ``computed_at``; ``popular`` is (item, score), best first."""

    def __init__(self, audience: Audience, popular: Sequence[tuple[str, float]], computed_at: int) -> None:
        self._audience = audience
        self._popular = popular
        self._computed_at = computed_at

    def popular_list(self) -> RecommendationList:
        """The list for users without one."""
        texts = self._audience.item_texts([item for item, _ in self._popular[:MAX_ITEMS]])
        return self._list([self._popular_item(item, score, texts) for item, score in self._popular[:MAX_ITEMS]])

    def lists(self, users: Sequence[str], ranked: Sequence[Ranked], known: Engagements) -> list[RecommendationList]:
        """One list a user, in order: what similar users chose, then popular items the user does not have yet."""
        own = _own_items(users, known)
        chosen = {known.items[item] for row in ranked for item in row.items}
        texts = self._audience.item_texts(sorted(chosen.union(item for item, _ in self._popular)))
        return [
            self._list(self._filled(_similar_items(row, known, texts), own.get(user, set()), texts))
            for user, row in zip(users, ranked, strict=True)
        ]

    def _filled(self, items: list[RecommendedItem], own: set[str], texts: Mapping[str, str]) -> list[RecommendedItem]:
        seen = own.union(item.item_id for item in items)
        for item, score in self._popular:
            if len(items) >= MAX_ITEMS:
                break
            if item not in seen:
                items.append(self._popular_item(item, score, texts))
        return items

    def _popular_item(self, item: str, score: float, texts: Mapping[str, str]) -> RecommendedItem:
        return RecommendedItem(item, round(score, 6), texts.get(item), "popular", "popular lately")

    def _list(self, items: list[RecommendedItem]) -> RecommendationList:
        personal = any(item.source == "similar_users" for item in items)
        return RecommendationList(self._computed_at, "similar_users" if personal else "popular", items)


def _similar_items(row: Ranked, known: Engagements, texts: Mapping[str, str]) -> list[RecommendedItem]:
    items = []
    for index, score, supporters in zip(row.items, row.scores, row.supporters, strict=True):
        item = known.items[index]
        people = "1 person" if supporters == 1 else f"{supporters} people"
        reason = f"chosen by {people} with similar taste"
        items.append(RecommendedItem(item, round(float(score), 6), texts.get(item), "similar_users", reason))
    return items


def _own_items(users: Sequence[str], known: Engagements) -> dict[str, set[str]]:
    wanted = set(users)
    own: dict[str, set[str]] = {}
    for user_index, item_index in zip(known.user_index, known.item_index, strict=True):
        user = known.users[user_index]
        if user in wanted:
            own.setdefault(user, set()).add(known.items[item_index])
    return own


def ttl_of(user_id: str, computed_at: int, ttl_s: int) -> int:
    """Seconds until a list ends: up to 15 % less than ``ttl_s``, never under 5 minutes.

    Spread by a hash of user and run, so that lists written together do not end together.
    """
    spread = hashlib.sha256(f"{computed_at}:{user_id}".encode()).digest()[0] / 255
    return max(_LEAST_TTL_S, round(ttl_s * (1 - _TTL_JITTER * spread)))
