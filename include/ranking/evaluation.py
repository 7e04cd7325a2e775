"""Measures of a ranking against what the users engaged with later. Gain is binary, every item is ranked."""

from __future__ import annotations

import numpy as np

#: The length of the lists that are measured by NDCG and hit rate.
LIMIT = 10
RECALL_LIMIT = 20
_TIES = 20
_DISCOUNTS = 1 / np.log2(np.arange(2, LIMIT + 2))


def ndcg(is_hit: np.ndarray, relevant: int) -> float:
    """NDCG@10 of one list: ``is_hit`` (bool) by rank, and the number of the user's later items."""
    if relevant == 0:
        return 0.0
    gained = (_DISCOUNTS[: len(is_hit)] * is_hit[:LIMIT]).sum()
    return float(gained / _DISCOUNTS[: min(relevant, LIMIT)].sum())


def recall(is_hit: np.ndarray, relevant: int) -> float:
    """Recall@20: the share of the user's later items that are among the first 20."""
    return float(is_hit[:RECALL_LIMIT].sum() / relevant) if relevant else 0.0


def find_best(scores: np.ndarray, limit: int) -> np.ndarray:
    """(users, limit) the columns of the greatest scores of each row, greatest first.

    Ties go by column, unless more than _TIES of them are at the end.
    """
    limit = min(limit, scores.shape[1])
    wide = min(limit + _TIES, scores.shape[1])
    best = np.sort(np.argpartition(-scores, wide - 1, axis=1)[:, :wide], axis=1)
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")[:, :limit]
    found: np.ndarray = np.take_along_axis(best, order, axis=1)
    return found


def standard_error(values: np.ndarray) -> float:
    """Of the mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
