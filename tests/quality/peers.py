"""The rankings that Millrace is compared with. Each chooses its settings on the same inner split as Millrace does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any, Protocol

import numpy as np
from scipy import sparse

from include.errors import ConfigurationError
from include.ranking.arrays import invert, with_ones
from include.ranking.interactions import Interactions, Split
from include.ranking.walk import fit_walk, keep_best
from tests.quality.scoring import score_users

#: EASE inverts items x items: with more items it is left out.
MAX_EASE_ITEMS = 20_000

#: (users, items) scores of some rows of events, whose histories may have been cut.
type Scorer = Callable[[Interactions, np.ndarray], np.ndarray]
#: Settings of a method: what is tried on the inner split.
type Setting = Mapping[str, Any]


class Peer(Protocol):
    """A method with its settings. ``can_cut``: whether it can rank for histories other than those it was fitted on."""

    name: str
    can_cut: bool

    def grid(self, split: Split, by_time: bool) -> Sequence[Setting]:
        """The settings to choose from; none if the method cannot be fitted on such data."""

    def fit(self, split: Split, setting: Setting) -> Scorer: ...


def choose(
    peer: Peer, inner: Split, by_time: bool, users: np.ndarray
) -> tuple[Setting, list[tuple[Setting, float]]] | None:
    """The best setting by NDCG@10 on the inner split, and all that were tried; None if the method cannot be fitted."""
    tried = []
    for setting in peer.grid(inner, by_time):
        scores = score_users(inner, users, peer.fit(inner, setting))
        tried.append((setting, float(scores.ndcg.mean())))
    return (max(tried, key=lambda each: each[1])[0], tried) if tried else None


def _settings(**values: Sequence[Any]) -> list[Setting]:
    return [dict(zip(values, combination, strict=True)) for combination in product(*values.values())]


class Popularity:
    """The users of an item, each decayed since the first engagement with it."""

    can_cut = True

    def __init__(self, name: str, half_lives: Sequence[float | None]) -> None:
        self.name = name
        self._half_lives = half_lives

    def grid(self, split: Split, by_time: bool) -> Sequence[Setting]:
        return _settings(half_life=self._half_lives) if by_time or self._half_lives == (None,) else []

    def fit(self, split: Split, setting: Setting) -> Scorer:
        decayed = split.train.matrix(split.as_of_ms, setting["half_life"], from_first=True)
        popularity = np.asarray(decayed.sum(axis=0)).ravel()
        return lambda events, rows: np.tile(popularity, (len(rows), 1))


class ItemKNN:
    """The K nearest items by cosine (Sarwar et al. 2001)."""

    name, can_cut = "ItemKNN", True

    def grid(self, split: Split, by_time: bool) -> Sequence[Setting]:
        return _settings(neighbours=(20, 100, 400))

    def fit(self, split: Split, setting: Setting) -> Scorer:
        engaged = with_ones(split.train.matrix())
        lengths = np.sqrt(np.asarray(engaged.sum(axis=0)).ravel())
        scaled = sparse.csr_array(engaged * invert(lengths))
        similar = keep_best(sparse.csr_array(scaled.T @ scaled), setting["neighbours"], 0)
        return lambda events, rows: (with_ones(events.matrix()[rows]) @ similar).toarray()


class UserKNN:
    """The K nearest users by cosine (Resnick et al. 1994)."""

    name, can_cut = "UserKNN", True

    def grid(self, split: Split, by_time: bool) -> Sequence[Setting]:
        return _settings(neighbours=(50, 200, 500))

    def fit(self, split: Split, setting: Setting) -> Scorer:
        engaged = with_ones(split.train.matrix())
        lengths = np.sqrt(np.asarray(engaged.sum(axis=1)).ravel())
        scaled = sparse.csr_array(sparse.diags_array(invert(lengths)) @ engaged)

        def score(events: Interactions, rows: np.ndarray) -> np.ndarray:
            similarity = sparse.csr_array(with_ones(events.matrix()[rows]) @ scaled.T).tolil()
            for position, row in enumerate(rows):
                similarity[position, row] = 0
            nearest = keep_best(sparse.csr_array(similarity), setting["neighbours"], -len(rows))
            scores: np.ndarray = (nearest @ engaged).toarray()
            return scores

        return score


class RP3beta:
    """The walk over users, divided by a power of the item's degree (Paudel et al. 2016)."""

    name, can_cut = "RP3beta", True

    def grid(self, split: Split, by_time: bool) -> Sequence[Setting]:
        return _settings(beta=(0.2, 0.4, 0.6, 0.8), neighbours=(100, 400))

    def fit(self, split: Split, setting: Setting) -> Scorer:
        walk = fit_walk(split.train.matrix(), setting["beta"], setting["neighbours"])
        return lambda events, rows: (with_ones(events.matrix()[rows]) @ walk).toarray()


class Ease:
    """EASE (Steck 2019), on engagement as it is, or decayed since the last event of each pair."""

    can_cut = True

    def __init__(self, name: str, half_lives: Sequence[float | None]) -> None:
        self.name = name
        self._half_lives = half_lives

    def grid(self, split: Split, by_time: bool) -> Sequence[Setting]:
        if split.train.items > MAX_EASE_ITEMS:
            return []
        return _settings(half_life=self._half_lives if by_time else (None,), strength=(20.0, 60.0, 200.0, 600.0))

    def fit(self, split: Split, setting: Setting) -> Scorer:
        half_life = setting["half_life"]
        matrix = split.train.matrix(split.as_of_ms, half_life)
        gram = (matrix.T @ matrix).toarray()
        gram[np.diag_indices_from(gram)] += setting["strength"]
        inverse = np.linalg.inv(gram)
        weights = -inverse / np.diag(inverse)
        np.fill_diagonal(weights, 0)
        return lambda events, rows: np.asarray(events.matrix(split.as_of_ms, half_life)[rows] @ weights)


class Implicit:
    """Matrix factorisation by the library ``implicit``: ALS (Hu et al. 2008) or BPR (Rendle et al. 2009)."""

    def __init__(self, name: str, grid: Sequence[Setting], *, can_cut: bool) -> None:
        self.name = name
        self.can_cut = can_cut
        self._grid = grid

    def grid(self, split: Split, by_time: bool) -> Sequence[Setting]:
        return self._grid

    def fit(self, split: Split, setting: Setting) -> Scorer:
        model = _open_implicit(self.name, setting)
        engaged = sparse.csr_matrix(with_ones(split.train.matrix()).astype(np.float32))
        model.fit(engaged, show_progress=False)

        def score(events: Interactions, rows: np.ndarray) -> np.ndarray:
            users = model.user_factors[rows]
            if self.can_cut:
                users = model.recalculate_user(
                    rows, sparse.csr_matrix(with_ones(events.matrix()[rows]).astype(np.float32))
                )
            scores: np.ndarray = users @ model.item_factors.T
            return scores

        return score


def _open_implicit(name: str, setting: Setting) -> Any:
    try:
        from implicit import als, bpr
    except ImportError:
        raise ConfigurationError("the library implicit is missing: `make quality` installs it") from None
    if name == "ALS":
        return als.AlternatingLeastSquares(**setting, iterations=15, random_state=0)
    return bpr.BayesianPersonalizedRanking(**setting, random_state=0)


PEERS: Sequence[Peer] = (
    Popularity("popularity", (None,)),
    Popularity("popularity recent", (7, 30, 90, 180)),
    ItemKNN(),
    UserKNN(),
    RP3beta(),
    Implicit("ALS", _settings(factors=(64,), regularization=(0.5, 3.0), alpha=(1.0, 5.0, 20.0)), can_cut=True),
    Implicit(
        "BPR",
        _settings(factors=(64,), learning_rate=(0.03, 0.1), regularization=(0.01,), iterations=(100,)),
        can_cut=False,
    ),
    Ease("EASE", (None,)),
    Ease("EASE decayed", (None, 30, 60, 90, 180)),
)
