"""The ranking: pure functions on arrays, from similar users and their engagements to scored items.

score(u, j) = sum over neighbours v of similarity(u, v) * weight(v, j) * 0.5 ** (age(v, j) / 90 days)

(User-based collaborative filtering on text profiles with an exponential decay of old engagements; NDCG@10 on
online-retail is 0.090 without the decay. docs/benchmarks.md has the figures of this code.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

NEIGHBOURS = 50
NEIGHBOUR_HALF_LIFE_DAYS = 90.0
POPULAR_HALF_LIFE_DAYS = 30.0
#: An older engagement counts as if it had this age: 2 ** -1000 can be multiplied and summed, but 2 ** -1100 is zero,
#: and PostgreSQL treats that as an error. A default date of 1900 is 1,500 half-lives old.
MAX_HALF_LIVES = 1_000
DAY_MS = 86_400_000

#: How strongly one engagement of a kind counts in favour of an item. A return does not count at all.
KIND_WEIGHTS: Mapping[str, float] = {"view": 0.2, "click": 0.4, "return": 0.0}
DEFAULT_KIND_WEIGHT = 1.0


def kind_weight(kind: str) -> float:
    """The weight of one engagement of ``kind``; unknown kinds count in full."""
    return KIND_WEIGHTS.get(kind, DEFAULT_KIND_WEIGHT)


@dataclass(frozen=True)
class Engagements:
    """Who engaged with what: parallel arrays, one entry per (user, item).

    ``user_index`` and ``item_index`` (int32) point into ``users`` and ``items``; ``at`` is the last engagement in ms
    since 1970 (int64), ``weight`` the greatest kind weight (float64).
    """

    users: Sequence[str]
    items: Sequence[str]
    user_index: np.ndarray
    item_index: np.ndarray
    at: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class RankedItems:
    """The best items of one user: indexes into the engagements' items, scores, number of neighbours behind each."""

    items: np.ndarray
    scores: np.ndarray
    supporters: np.ndarray


def decay(age_ms: np.ndarray, half_life_days: float) -> np.ndarray:
    """0.5 ** (age / half-life); a negative age counts as zero."""
    factors: np.ndarray = np.exp2(-np.maximum(age_ms, 0) / (half_life_days * DAY_MS))
    return factors


def rank(
    users: Sequence[str],
    neighbours: Sequence[Sequence[tuple[str, float]]],
    engagements: Engagements,
    as_of_ms: int,
    limit: int,
) -> list[RankedItems]:
    """The best ``limit`` unseen items of each of ``users``, best first, ties by item id.

    ``neighbours`` lists other users with their similarity for each user; similarities at or below zero are ignored.
    Items that a user has already engaged with are left out.
    """
    position = {user: index for index, user in enumerate(engagements.users)}
    similarity = _similarity_matrix(users, neighbours, position)
    strength = engagements.weight * decay(as_of_ms - engagements.at, NEIGHBOUR_HALF_LIFE_DAYS)
    shape = (len(engagements.users), len(engagements.items))
    decayed = sparse.csr_array((strength, (engagements.user_index, engagements.item_index)), shape=shape)
    decayed.eliminate_zeros()
    engaged = decayed.copy()
    engaged.data = np.ones_like(engaged.data)
    linked = similarity.copy()
    linked.data = np.ones_like(linked.data)
    scores = (similarity @ decayed).tocsr()
    supporters = (linked @ engaged).tocsr()
    own = _own_items(users, position, engagements)
    id_order = np.argsort(np.argsort(np.asarray(engagements.items, dtype=object))) if engagements.items else None
    return [_best(scores, supporters, row, own[row], id_order, limit) for row in range(len(users))]


def _similarity_matrix(
    users: Sequence[str], neighbours: Sequence[Sequence[tuple[str, float]]], position: Mapping[str, int]
) -> sparse.csr_array:
    rows, columns, values = [], [], []
    for row, (user, others) in enumerate(zip(users, neighbours, strict=True)):
        for other, value in others:
            if other != user and value > 0 and other in position:
                rows.append(row)
                columns.append(position[other])
                values.append(value)
    shape = (len(users), len(position))
    index = (np.asarray(rows, dtype=np.int64), np.asarray(columns, dtype=np.int64))
    return sparse.csr_array((np.asarray(values, dtype=np.float64), index), shape=shape)


def _own_items(users: Sequence[str], position: Mapping[str, int], engagements: Engagements) -> list[np.ndarray]:
    order = np.argsort(engagements.user_index, kind="stable")
    sorted_users = engagements.user_index[order]
    own = []
    for user in users:
        row = position.get(user, -1)
        start, end = np.searchsorted(sorted_users, [row, row + 1])
        own.append(engagements.item_index[order[start:end]] if row >= 0 else np.empty(0, dtype=np.int32))
    return own


def _best(
    scores: sparse.csr_array,
    supporters: sparse.csr_array,
    row: int,
    own: np.ndarray,
    id_order: np.ndarray | None,
    limit: int,
) -> RankedItems:
    start, end = scores.indptr[row], scores.indptr[row + 1]
    items, values = scores.indices[start:end], scores.data[start:end]
    keep = (values > 0) & ~np.isin(items, own)
    items, values = items[keep], values[keep]
    if id_order is None or not len(items):
        empty = np.empty(0, dtype=np.int64)
        return RankedItems(empty, np.empty(0), empty)
    best = np.lexsort((id_order[items], -values))[:limit]
    counts = dict(_row(supporters, row))
    chosen = items[best]
    return RankedItems(chosen, values[best], np.asarray([counts.get(int(item), 0) for item in chosen], dtype=np.int64))


def _row(matrix: sparse.csr_array, row: int) -> list[tuple[int, int]]:
    start, end = matrix.indptr[row], matrix.indptr[row + 1]
    return [(int(i), int(v)) for i, v in zip(matrix.indices[start:end], matrix.data[start:end], strict=True)]


def subtract_centre(vectors: np.ndarray, centre: np.ndarray | None) -> np.ndarray:
    """``vectors`` minus ``centre``, rows scaled to length one; a row equal to the centre becomes zero."""
    shifted = vectors if centre is None else vectors - centre
    lengths = np.linalg.norm(shifted, axis=1, keepdims=True)
    unit: np.ndarray = np.divide(shifted, lengths, out=np.zeros_like(shifted), where=lengths > 1e-6)
    return unit.astype(np.float32)
