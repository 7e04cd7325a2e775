"""From histories to ranked items, each with the evidence for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import sparse

from include.ranking.features import (
    POPULARITY,
    SOURCES,
    Candidates,
    Histories,
    Scores,
    Sources,
    select_candidates,
)
from include.ranking.model import Model

#: Users whose evidence is in memory at a time.
_USERS = 256


class Ground(StrEnum):
    """What speaks for an item: an own item that others have with it, similar users, a similar text, popularity, or only
    that it is new.
    """

    ITEM = "item"
    USERS = "users"
    TEXT = "text"
    POPULAR = "popular"
    NEW = "new"


_GROUNDS: Mapping[Ground, Sequence[str]] = {
    Ground.ITEM: ("item_ridge", "item_ridge_short", "walk"),
    Ground.USERS: ("user_ridge",),
    Ground.TEXT: ("text",),
    Ground.POPULAR: (*POPULARITY, "age"),
}
_TEXT_ROW = list(_GROUNDS).index(Ground.TEXT)


class Evidence(NamedTuple):
    """``item``: the user's own item that is behind it, -1 for none; ``users``: how many similar users have the item."""

    ground: Ground
    item: int = -1
    users: int = 0


@dataclass(frozen=True)
class RankedItems:
    """The best items of one user, best first."""

    items: np.ndarray
    scores: np.ndarray
    evidence: Sequence[Evidence]


def rank(model: Model, sources: Sources, histories: Histories, limit: int) -> Iterator[RankedItems]:
    """The best ``limit`` items of each user, in order; ties go by item."""
    size = min(sources.chunk_size, _USERS)
    for start in range(0, len(histories), size):
        yield from _rank_chunk(model, sources, histories.take(slice(start, start + size)), limit)


def _rank_chunk(model: Model, sources: Sources, histories: Histories, limit: int) -> Iterator[RankedItems]:
    scores = sources.score(histories)
    candidates = select_candidates(scores.by_source, histories)
    user = candidates.user
    weighted = candidates.features * model.weights_for(histories)[user]
    final = weighted.sum(axis=1)
    order = np.lexsort((candidates.item, -final, user))
    best = order[np.arange(len(order)) - candidates.start[user] < limit]
    evidence = _Witness(sources, histories, scores).find(user, candidates, weighted, best)
    bounds = np.searchsorted(user[best], np.arange(len(histories) + 1))
    for start, end in pairwise(bounds):
        rows = best[start:end]
        yield RankedItems(candidates.item[rows], final[rows], evidence[start:end])


class _Witness:
    """Finds what speaks most for an item: the ground by which it is furthest above the user's other candidates."""

    def __init__(self, sources: Sources, histories: Histories, scores: Scores) -> None:
        self._sources = sources
        self._histories = histories
        self._neighbours = scores.neighbours

    def find(self, user: np.ndarray, candidates: Candidates, weighted: np.ndarray, best: np.ndarray) -> list[Evidence]:
        """One for each row of ``best``. A ground without evidence in the data is never given."""
        strength = np.stack([_above_mean(weighted, user, candidates.start, names) for names in _GROUNDS.values()])
        strength = strength[:, best]
        users, items = user[best], candidates.item[best]
        unpopular = self._sources.popularity[items].max(axis=1) <= 0
        own = self._find_own_items(users, items)
        supporters = self._count_supporters(users, items)
        similar = self._find_similar_texts(users, items, unpopular | (strength.argmax(axis=0) == _TEXT_ROW))
        has_none = np.stack([own < 0, supporters == 0, similar < -1, unpopular])
        strength[has_none] = -np.inf
        chosen = np.where(has_none.all(axis=0), len(_GROUNDS), strength.argmax(axis=0))
        grounds = [*_GROUNDS, Ground.NEW]
        found = []
        for row, index in enumerate(chosen):
            ground = grounds[index]
            item = {Ground.ITEM: own, Ground.TEXT: similar}.get(ground)
            count = int(supporters[row]) if ground == Ground.USERS else 0
            found.append(Evidence(ground, -1 if item is None else int(item[row]), count))
        return found

    def _find_own_items(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """The own item that adds most to each item's ridge, or to its walk where the ridge has none; -1 for none."""
        own = self._histories.own.toarray()
        found = _find_strongest(own, self._sources.item_weights_by_column, users, items)
        missing = found < 0
        found[missing] = _find_strongest(own, self._sources.walk_by_column, users[missing], items[missing])
        return found

    def _count_supporters(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """How many of the nearest users who speak for the user's taste have each item."""
        if self._neighbours is None:
            return np.zeros(len(items), dtype=np.int64)
        positive = self._neighbours.copy()
        positive.data = (positive.data > 0).astype(np.float32)
        counts = (positive @ self._sources.user_ridge.engaged).toarray()
        counted: np.ndarray = counts[users, items].astype(np.int64)
        return counted

    def _find_similar_texts(self, users: np.ndarray, items: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """The own item with the most similar text where ``wanted``; -1 if only the user's messages are similar, -2 if
        nothing is.
        """
        found = np.full(len(items), -2, dtype=np.int64)
        texts, seen = self._sources.texts, self._histories.seen
        if texts is None:
            return found
        for user in np.unique(users[wanted]):
            rows = np.flatnonzero(wanted & (users == user))
            own = seen.indices[seen.indptr[user] : seen.indptr[user + 1]]
            if len(own):
                similarity = texts[own] @ texts[items[rows]].T
                found[rows] = np.where(similarity.max(axis=0) > 0, own[similarity.argmax(axis=0)], -2)
            elif self._histories.profiles is not None:
                found[rows] = np.where(texts[items[rows]] @ self._histories.profiles[user] > 0, -1, -2)
        return found


def _above_mean(weighted: np.ndarray, user: np.ndarray, start: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """What some sources add to each candidate's score, less what they add to the user's candidates on average."""
    added = weighted[:, [SOURCES.index(name) for name in names]].sum(axis=1)
    counts = np.maximum(np.diff(start), 1)
    above: np.ndarray = added - (np.bincount(user, weights=added, minlength=len(counts)) / counts)[user]
    return above


def _find_strongest(own: np.ndarray, weights: sparse.csc_array, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """For each (user, item) the row of ``weights`` whose product with the user's own is greatest; -1 without any.

    ``own``: (users, items), ``weights``: items x items.
    """
    found = np.full(len(items), -1, dtype=np.int64)
    counts = np.diff(weights.indptr)[items]
    pairs = np.flatnonzero(counts)
    counts = counts[pairs]
    if not len(pairs):
        return found
    begin = np.cumsum(counts) - counts
    positions = np.arange(counts.sum()) + np.repeat(weights.indptr[items[pairs]] - begin, counts)
    rows = weights.indices[positions]
    values = weights.data[positions] * own[np.repeat(users[pairs], counts), rows]
    greatest = np.maximum.reduceat(values, begin)
    is_greatest = np.flatnonzero(values == np.repeat(greatest, counts))
    owner = np.repeat(np.arange(len(pairs)), counts)[is_greatest]
    _, first = np.unique(owner, return_index=True)
    found[pairs] = np.where(greatest > 0, rows[is_greatest[first]], -1)
    return found
