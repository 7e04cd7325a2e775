"""Turns ranked arrays into recommendation lists: texts, reasons, and popular items to fill them up."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from include.domain.ranking import Engagements, RankedItems
from include.domain.recommendation_list import (
    MAX_ITEMS,
    ItemSource,
    ListSource,
    RecommendationList,
    RecommendedItem,
    shorten_text,
)
from include.ports import UserActivity

_TTL_JITTER = 0.15
#: One interval of the precompute's schedule, and two minutes for a run: until then the next list may not be there.
MIN_TTL_S = 420


class Choice(NamedTuple):
    """An item for a user, and what speaks for it: the user's own item ``because``, or how many similar ``people``."""

    item_id: str
    score: float
    source: ItemSource
    because: str | None = None
    people: int = 0


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
        items = [_popular_item(item, score, texts) for item, score in best]
        return RecommendationList(self._computed_at, "popular", items)

    def build_lists(
        self,
        users: Sequence[str],
        choices: Sequence[Sequence[Choice]],
        own_items: Mapping[str, set[str]],
        *,
        learned: bool,
    ) -> list[RecommendationList]:
        """One list per user, in order: the user's ``choices``, then popular items that the user does not have."""
        named = {item for row in choices for choice in row for item in (choice.item_id, choice.because) if item}
        texts = self._read_texts(sorted(named.union(item for item, _ in self._popular)))
        lists = []
        for user, row in zip(users, choices, strict=True):
            items = [_chosen_item(choice, texts) for choice in row]
            personal = any(item.source not in ("popular", "new") for item in items)
            source: ListSource = "popular" if not personal else "learned" if learned else "similar_users"
            filled = self._fill_up(items, own_items.get(user, set()), texts)
            lists.append(RecommendationList(self._computed_at, source, filled))
        return lists

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


def _popular_item(item: str, score: float, texts: Mapping[str, str]) -> RecommendedItem:
    return RecommendedItem(item, round(score, 6), texts.get(item), "popular", "popular lately")


def _chosen_item(choice: Choice, texts: Mapping[str, str]) -> RecommendedItem:
    item, score, source, because, people = choice
    return RecommendedItem(item, round(score, 6), texts.get(item), source, _reason(source, because, people, texts))


def _reason(source: ItemSource, because: str | None, people: int, texts: Mapping[str, str]) -> str:
    own = None if because is None else texts.get(because, because)
    match source:
        case "similar_items":
            return f"because you chose {own}"
        case "similar_users":
            return f"chosen by {'1 person' if people == 1 else f'{people} people'} with similar taste"
        case "similar_texts":
            return f"similar to {own}" if own is not None else "similar to what you wrote"
        case "new":
            return "new"
        case "popular":
            return "popular lately"


def similar_choices(ranked: Sequence[RankedItems], engagements: Engagements) -> list[list[Choice]]:
    """The items that similar users chose, for each user."""
    return [
        [
            Choice(engagements.items[item], float(score), "similar_users", people=int(people))
            for item, score, people in zip(row.items, row.scores, row.supporters, strict=True)
        ]
        for row in ranked
    ]


def find_own_items(users: Sequence[str], engagements: Engagements) -> dict[str, set[str]]:
    """The items of each of ``users`` who has any."""
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
