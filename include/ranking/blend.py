"""The blend: linear weights of the sources, fitted listwise on later pairs and chosen by cross-validation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import minimize

from include.ranking.evaluation import LIMIT, ndcg
from include.ranking.features import POPULARITY, SOURCES, Candidates

#: Sources that are taken or left together.
GROUPS: Sequence[tuple[str, ...]] = (
    ("item_ridge",), ("item_ridge_short",), ("user_ridge",), ("walk",), ("text",), POPULARITY, ("age",),
)  # fmt: skip
_FOLDS = 2
#: A group that raises NDCG@10 by less than this factor is left out: it is noise, and costs time for every user.
_MIN_GAIN = 1.005
#: Against weights that a few users would make extreme: of the mean loss.
_PENALTY = 1e-3


@dataclass(frozen=True)
class Examples:
    """Candidates of users with what they engaged with later: ``is_hit`` per candidate, ``hits`` per user: all of the
    user's later items, including those that are not among the candidates.
    """

    candidates: Candidates
    is_hit: np.ndarray
    hits: np.ndarray

    def take(self, users: np.ndarray) -> Examples:
        """Some of the users, by position."""
        start = self.candidates.start
        rows = np.concatenate([np.arange(start[user], start[user + 1]) for user in users])
        counts = start[users + 1] - start[users]
        candidates = Candidates(
            np.concatenate([[0], np.cumsum(counts)]), self.candidates.item[rows], self.candidates.features[rows]
        )
        return Examples(candidates, self.is_hit[rows], self.hits[users])


def label(candidates: Candidates, test: sparse.csr_array) -> Examples:
    """``test``: the users' later items, one row per user of the candidates."""
    is_hit = np.zeros(len(candidates.item), dtype=bool)
    for row in range(test.shape[0]):
        later = test.indices[test.indptr[row] : test.indptr[row + 1]]
        own = slice(candidates.start[row], candidates.start[row + 1])
        is_hit[own] = np.isin(candidates.item[own], later)
    return Examples(candidates, is_hit, np.diff(test.indptr))


def fit(examples: Examples, sources: Sequence[str]) -> np.ndarray:
    """(SOURCES,) weights that minimise the mean of -log softmax(score) over the hits; zero for all other sources."""
    columns = [SOURCES.index(name) for name in sources]
    lists = np.flatnonzero(_count_hits(examples))
    weights = np.zeros(len(SOURCES))
    if not len(lists) or not columns:
        return weights
    chosen = examples.take(lists)
    features = chosen.candidates.features[:, columns]
    scale = features.std(axis=0)
    scale[scale < 1e-12] = 1
    problem = _Listwise(features / scale, chosen.is_hit.astype(np.float64), chosen.candidates.start)
    fitted = minimize(problem.loss, np.zeros(len(columns)), jac=True, method="L-BFGS-B", options={"maxiter": 100})
    weights[columns] = fitted.x / scale
    return weights


def _count_hits(examples: Examples) -> np.ndarray:
    """How many of each user's candidates are hits."""
    return np.bincount(examples.candidates.user, weights=examples.is_hit, minlength=len(examples.hits))


class _Listwise:
    """-log softmax of the hits, the mean over users of the mean over their hits, with its gradient."""

    def __init__(self, features: np.ndarray, is_hit: np.ndarray, start: np.ndarray) -> None:
        self._features = features
        self._begin = start[:-1]
        self._counts = np.diff(start)
        hits = np.add.reduceat(is_hit, self._begin)
        self._target = is_hit / np.repeat(hits, self._counts) / len(hits)
        self._lists = len(hits)

    def loss(self, weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores = self._features @ weights
        highest = np.repeat(np.maximum.reduceat(scores, self._begin), self._counts)
        exponential = np.exp(scores - highest)
        total = np.repeat(np.add.reduceat(exponential, self._begin), self._counts)
        probability = exponential / total
        loss = -(self._target * (scores - highest - np.log(total))).sum() + _PENALTY * (weights @ weights)
        gradient = self._features.T @ (probability / self._lists - self._target) + 2 * _PENALTY * weights
        return float(loss), gradient


def score_ndcg(examples: Examples, weights: np.ndarray) -> np.ndarray:
    """NDCG@10 of each user."""
    scores = examples.candidates.features @ weights
    start = examples.candidates.start
    values = np.zeros(len(examples.hits))
    for user in range(len(examples.hits)):
        own = slice(start[user], start[user + 1])
        best = np.lexsort((examples.candidates.item[own], -scores[own]))[:LIMIT]
        values[user] = ndcg(examples.is_hit[own][best], int(examples.hits[user]))
    return values


def choose_sources(examples: Examples, seed: int, available: Iterable[str] = SOURCES) -> tuple[tuple[str, ...], float]:
    """The groups of sources, added one by one while NDCG@10 in cross-validation rises, and that NDCG@10."""
    have = set(available)
    groups = [group for group in GROUPS if have.issuperset(group)]
    folds = draw_folds(examples, seed)
    chosen: tuple[str, ...] = ()
    best = 0.0
    while groups:
        tried = {group: cross_validate(examples, folds, (*chosen, *group)).mean() for group in groups}
        group = max(tried, key=lambda name: tried[name])
        if tried[group] <= best * _MIN_GAIN:
            break
        best, chosen = float(tried[group]), (*chosen, *group)
        groups.remove(group)
    return chosen, best


def draw_folds(examples: Examples, seed: int) -> np.ndarray:
    """The fold of each user."""
    folds: np.ndarray = np.random.default_rng(seed).integers(_FOLDS, size=len(examples.hits))
    return folds


def cross_validate(examples: Examples, folds: np.ndarray, sources: Sequence[str]) -> np.ndarray:
    """NDCG@10 of each user, with weights that were fitted on the users of the other folds."""
    values = np.zeros(len(examples.hits))
    for fold in range(_FOLDS):
        inside = np.flatnonzero(folds == fold)
        weights = fit(examples.take(np.flatnonzero(folds != fold)), sources)
        values[inside] = score_ndcg(examples.take(inside), weights)
    return values
