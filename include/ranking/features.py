"""Scores of every source for a chunk of users, and the candidates that they nominate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import sparse

from include.ranking.interactions import Interactions
from include.ranking.item_ridge import fit_item_ridge
from include.ranking.popularity import log_age, log_popularity
from include.ranking.user_ridge import UserRidge
from include.ranking.walk import fit_walk

POPULARITY_HALF_LIVES: Sequence[float | None] = (7, 30, 120, None)
POPULARITY = ("popular_7", "popular_30", "popular_120", "popular")
PERSONAL = ("item_ridge", "item_ridge_short", "user_ridge", "walk", "text")
SOURCES = (*PERSONAL, *POPULARITY, "age")
#: How many candidates a source nominates; age alone nominates nothing.
NOMINATED: Mapping[str, int] = {"item_ridge": 150, **dict.fromkeys(PERSONAL[1:], 100), **dict.fromkeys(POPULARITY, 50)}
_SHORT_DAYS = 30.0
#: Scores of one chunk in memory: users x items numbers.
_CHUNK_SCORES = 8_000_000


@dataclass(frozen=True)
class SourceSettings:
    """Half-lives in days, None for no decay; ``half_life``: of what items and users have in common, since the first or
    the last engagement; ``own_half_life``: of the user's own items. ``neighbours`` and ``strength`` of the two ridges,
    ``beta`` of the walk.
    """

    half_life: float | None = None
    own_half_life: float | None = None
    from_first: bool = False
    neighbours: int = 100
    strength: float = 1.0
    user_neighbours: int = 200
    user_strength: float = 100.0
    beta: float = 0.7


@dataclass(frozen=True)
class Histories:
    """The own items of some users, one row each: ``own`` and ``short`` decayed, ``seen`` every item, with ones.

    ``users``: their rows in the matrix that was learned from, -1 for a user who is not in it. ``profiles``: (users,
    dimension) float32, the taste of users without items, from their messages; zero for a user without one.
    """

    own: sparse.csr_array
    short: sparse.csr_array
    seen: sparse.csr_array
    users: np.ndarray
    profiles: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: slice) -> Histories:
        """Some of the users."""
        profiles = None if self.profiles is None else self.profiles[rows]
        return Histories(self.own[rows], self.short[rows], self.seen[rows], self.users[rows], profiles)


@dataclass(frozen=True)
class Scores:
    """``by_source``: (users, items), or (items,) for a source that is the same for all users.

    ``neighbours``: users x learned users, the weights of each user's nearest users; None if they were not needed.
    """

    by_source: dict[str, np.ndarray]
    neighbours: sparse.csr_array | None


@dataclass(frozen=True)
class Sources:
    """What every source has learned from the events before ``as_of_ms``; matrices are users x items or items x items.

    ``used``: the sources that score items; the matrices of others may be empty. ``texts``: (items, dimension) float32,
    rows of length one, or zero for an item without a text.
    """

    settings: SourceSettings
    used: frozenset[str]
    as_of_ms: int
    item_weights: sparse.csr_array
    user_ridge: UserRidge
    decayed: sparse.csr_array
    walk: sparse.csr_array
    popularity: np.ndarray
    age: np.ndarray
    texts: np.ndarray | None

    def histories(
        self, events: Interactions, rows: np.ndarray, users: np.ndarray | None = None, as_of_ms: int | None = None
    ) -> Histories:
        """Those of some ``rows`` of ``events``.

        ``users``: who they are in what was learned, by default the same rows.
        """
        as_of_ms = self.as_of_ms if as_of_ms is None else as_of_ms
        seen = events.seen()
        own, short = (events.matrix(as_of_ms, days) for days in (self.settings.own_half_life, _SHORT_DAYS))
        return Histories(own[rows], short[rows], seen[rows], rows if users is None else users)

    def score(self, histories: Histories) -> Scores:
        """The scores of every used source for every item."""
        neighbours, scores = None, {}
        if "item_ridge" in self.used:
            scores["item_ridge"] = (histories.own @ self.item_weights).toarray()
        if "item_ridge_short" in self.used:
            scores["item_ridge_short"] = (histories.short @ self.item_weights).toarray()
        if "user_ridge" in self.used:
            neighbours = self.user_ridge.weigh(histories.seen, histories.users)
            scores["user_ridge"] = (neighbours @ self.decayed).toarray()
        if "walk" in self.used:
            scores["walk"] = (histories.own @ self.walk).toarray()
        if "text" in self.used and self.texts is not None:
            scores["text"] = _find_tastes(histories, self.texts) @ self.texts.T
        scores.update({name: self.popularity[:, column] for column, name in enumerate(POPULARITY)})
        return Scores({**scores, "age": self.age}, neighbours)

    @cached_property
    def item_weights_by_column(self) -> sparse.csc_array:
        """``item_weights`` for look-ups by the item that is predicted."""
        return sparse.csc_array(self.item_weights)

    @cached_property
    def walk_by_column(self) -> sparse.csc_array:
        """``walk`` for look-ups by the item that is reached."""
        return sparse.csc_array(self.walk)

    def renew(
        self, as_of_ms: int, popularity: np.ndarray, age: np.ndarray, new_texts: np.ndarray | None = None
    ) -> Sources:
        """The same with the popularity and age of today: arrays of the known items, then of new ones, which nothing has
        been learned about. ``new_texts``: (new items, dimension).
        """
        items = len(age)
        walk, weights, decayed = self.walk.copy(), self.item_weights.copy(), self.decayed.copy()
        walk.resize((items, items))
        weights.resize((items, items))
        decayed.resize((decayed.shape[0], items))
        texts = self.texts
        if texts is not None:
            missing = np.zeros((items - len(texts), texts.shape[1]), dtype=np.float32)
            texts = np.concatenate([texts, missing if new_texts is None else new_texts])
        return replace(
            self,
            as_of_ms=as_of_ms,
            item_weights=weights,
            user_ridge=self.user_ridge.resize(items),
            decayed=decayed,
            walk=walk,
            popularity=popularity,
            age=age,
            texts=texts,
        )

    @property
    def chunk_size(self) -> int:
        """How many users fit into memory at a time."""
        items: int = self.item_weights.shape[1]
        return max(1, _CHUNK_SCORES // max(1, items))


def _find_tastes(histories: Histories, texts: np.ndarray) -> np.ndarray:
    """(users, dimension) float32, rows of length one: the mean text of a user's items, or the profile without any; zero
    for a user with neither.
    """
    tastes = histories.own @ texts
    if histories.profiles is not None:
        tastes = np.where(tastes.any(axis=1, keepdims=True), tastes, histories.profiles)
    lengths = np.linalg.norm(tastes, axis=1, keepdims=True)
    unit: np.ndarray = np.divide(tastes, lengths, out=np.zeros_like(tastes), where=lengths > 0)
    return unit.astype(np.float32)


def learn_sources(
    events: Interactions,
    as_of_ms: int,
    settings: SourceSettings,
    texts: np.ndarray | None = None,
    used: frozenset[str] = frozenset(SOURCES),
) -> Sources:
    """Everything that the ``used`` sources learn from ``events``, all of which are before ``as_of_ms``."""
    plain = events.matrix()
    decayed = events.matrix(as_of_ms, settings.half_life, from_first=settings.from_first)
    nothing = sparse.csr_array((events.items, events.items), dtype=np.float32)
    users = decayed if "user_ridge" in used else sparse.csr_array((0, events.items))
    needs_weights = not used.isdisjoint({"item_ridge", "item_ridge_short"})
    return Sources(
        settings=settings,
        used=used,
        as_of_ms=as_of_ms,
        item_weights=fit_item_ridge(decayed, settings.neighbours, settings.strength) if needs_weights else nothing,
        user_ridge=UserRidge.build(users, settings.user_neighbours, settings.user_strength),
        decayed=users,
        walk=fit_walk(plain, settings.beta, settings.neighbours) if "walk" in used else nothing,
        popularity=log_popularity(events, as_of_ms, POPULARITY_HALF_LIVES),
        age=log_age(events, as_of_ms),
        texts=texts,
    )


@dataclass(frozen=True)
class Candidates:
    """The candidates of some users, one row each, ordered by user: ``start`` has len(users) + 1 positions.

    ``features``: (candidates, SOURCES) float64; personal sources as z-scores over the user's candidates.
    """

    start: np.ndarray
    item: np.ndarray
    features: np.ndarray

    @property
    def user(self) -> np.ndarray:
        """The row of the user of each candidate."""
        return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))

    def without(self, items: sparse.csr_array) -> Candidates:
        """The same without some items of each user; ``items``: users x items."""
        user = self.user
        keep = np.asarray(items[user, self.item] == 0).ravel() if len(user) else np.empty(0, dtype=bool)
        counts = np.bincount(user[keep], minlength=len(self.start) - 1)
        return Candidates(np.concatenate([[0], np.cumsum(counts)]), self.item[keep], self.features[keep])


def find_candidates(sources: Sources, histories: Histories) -> Candidates:
    """The items that any source nominates for each user and the user does not have, with all of their scores."""
    size = sources.chunk_size
    parts = [_find_in_chunk(sources, histories.take(slice(at, at + size))) for at in range(0, len(histories), size)]
    if not parts:
        return Candidates(np.zeros(1, np.int64), np.empty(0, np.int64), np.empty((0, len(SOURCES))))
    counts = np.concatenate([np.diff(part.start) for part in parts])
    return Candidates(
        np.concatenate([[0], np.cumsum(counts)]),
        np.concatenate([part.item for part in parts]),
        np.concatenate([part.features for part in parts]),
    )


def _find_in_chunk(sources: Sources, histories: Histories) -> Candidates:
    return select_candidates(sources.score(histories).by_source, histories)


def select_candidates(scores: dict[str, np.ndarray], histories: Histories) -> Candidates:
    """The candidates of one chunk of users. Sets the scores of the users' own items to zero."""
    own = histories.seen.tocoo()
    nominated = np.zeros(histories.seen.shape, dtype=bool)
    for name in POPULARITY:
        nominated[:, _find_popular(scores[name], histories.seen)] = True
    for name in PERSONAL:
        if name in scores:
            scores[name][own.row, own.col] = 0
            _nominate(nominated, scores[name], NOMINATED[name])
    nominated[own.row, own.col] = False
    user, item = np.nonzero(nominated)
    counts = np.bincount(user, minlength=len(histories))
    features = np.zeros((len(item), len(SOURCES)))
    for column, name in enumerate(SOURCES):
        if name in PERSONAL and name in scores:
            features[:, column] = standardise(scores[name][user, item], user, counts)
        elif name in scores:
            features[:, column] = scores[name][item]
    return Candidates(np.concatenate([[0], np.cumsum(counts)]), item, features)


def _find_popular(values: np.ndarray, seen: sparse.csr_array) -> np.ndarray:
    """More than are nominated, because some of them may be a user's own."""
    limit = NOMINATED["popular"] + int(np.diff(seen.indptr).max(initial=0))
    return np.argsort(-values, kind="stable")[: min(limit, 4 * NOMINATED["popular"])]


def _nominate(nominated: np.ndarray, scores: np.ndarray, limit: int) -> None:
    """Set the ``limit`` greatest positive scores of each row."""
    limit = min(limit, scores.shape[1])
    best = np.argpartition(-scores, limit - 1, axis=1)[:, :limit]
    rows = np.arange(len(scores))[:, None]
    nominated[rows, best] |= np.take_along_axis(scores, best, axis=1) > 0


def standardise(values: np.ndarray, user: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """z-scores over the candidates of each user, who has ``counts`` of them; zeros where all of them are the same."""
    divisor = np.maximum(counts, 1)
    centred = values - (np.bincount(user, weights=values, minlength=len(counts)) / divisor)[user]
    spread = np.sqrt(np.bincount(user, weights=centred**2, minlength=len(counts)) / divisor)
    scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 1e-12)
    standardised: np.ndarray = centred * scale[user]
    return standardised
