"""Full ranking of every item seen in train, without the user's own, and the measures of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from include.ranking.evaluation import LIMIT, RECALL_LIMIT, find_best, ndcg, recall, standard_error
from include.ranking.interactions import Interactions, Split

_CHUNK = 500


@dataclass(frozen=True)
class UserScores:
    """One value per user; ``items``: (users, 20) what was recommended."""

    ndcg: np.ndarray
    recall: np.ndarray
    hit: np.ndarray
    items: np.ndarray

    def summarise(self, split: Split) -> dict[str, float]:
        """The means; the share of the train items in anyone's first ten; the mean self-information of these in bits."""
        users = np.bincount(split.train.seen().indices, minlength=split.train.items)
        shown = self.items[:, :LIMIT]
        share = np.maximum(users, 1) / split.train.users
        return {
            "ndcg@10": float(self.ndcg.mean()),
            "recall@20": float(self.recall.mean()),
            "hr@10": float(self.hit.mean()),
            "coverage": len(np.unique(shown)) / max(1, int((users > 0).sum())),
            "novelty": float(-np.log2(share[shown]).mean()),
            "se": standard_error(self.ndcg),
        }


def score_users(
    split: Split,
    users: np.ndarray,
    score: Callable[[Interactions, np.ndarray], np.ndarray],
    histories: Interactions | None = None,
) -> UserScores:
    """``histories``: what is known of the users, by default all train events; a cut one must not be longer.

    Whatever is in train is the user's own, and not ranked, also if it was cut from the history.
    """
    seen, test = split.train.seen()[users], split.test[users]
    unknown = np.bincount(split.train.item, minlength=split.train.items) == 0
    found = [np.empty((0, min(RECALL_LIMIT, split.train.items)), dtype=np.int64)]
    for start in range(0, len(users), _CHUNK):
        rows = users[start : start + _CHUNK]
        scores = np.array(score(split.train if histories is None else histories, rows), dtype=np.float64)
        own = seen[start : start + _CHUNK].tocoo()
        scores[own.row, own.col] = -np.inf
        scores[:, unknown] = -np.inf
        found.append(find_best(scores, RECALL_LIMIT))
    items = np.concatenate(found)
    later = [test.indices[test.indptr[row] : test.indptr[row + 1]] for row in range(len(users))]
    hits = [np.isin(row, own) for row, own in zip(items, later, strict=True)]
    sizes = [len(own) for own in later]
    return UserScores(
        np.array([ndcg(hit, size) for hit, size in zip(hits, sizes, strict=True)]),
        np.array([recall(hit, size) for hit, size in zip(hits, sizes, strict=True)]),
        np.array([float(hit[:LIMIT].any()) for hit in hits]),
        items,
    )
