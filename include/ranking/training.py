"""Training: every setting and weight is chosen on an inner split of the events, then learned from all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from scipy import sparse

from include.ranking.blend import Examples, choose_sources, cross_validate, draw_folds, fit, label, score_ndcg
from include.ranking.evaluation import LIMIT, find_best, ndcg, standard_error
from include.ranking.features import (
    SOURCES,
    SourceSettings,
    find_candidates,
    learn_sources,
)
from include.ranking.interactions import DAY_MS, Interactions, Split, split_at_random, split_by_time
from include.ranking.item_ridge import fit_item_ridge
from include.ranking.model import SHORT_ITEMS, Model
from include.ranking.user_ridge import UserRidge
from include.ranking.walk import fit_walk

HALF_LIVES: Sequence[float | None] = (None, 30, 60, 120, 240)
#: Tried one setting after the other, the others as they are; twice, because they depend on each other.
GRID: Mapping[str, Sequence[float | int | None]] = {
    "own_half_life": HALF_LIVES,
    "half_life": HALF_LIVES,
    "from_first": (False, True),
    "strength": (0.3, 1.0, 3.0),
    "neighbours": (50, 100, 200),
}
_ROUNDS = 2
#: Tried one by one, each for its own source.
BETAS: Sequence[float] = (0.3, 0.5, 0.7, 0.9)
STRENGTHS: Sequence[float] = (10.0, 30.0, 100.0, 300.0)
#: Without times these do nothing.
_OF_TIME = ("own_half_life", "half_life", "from_first")
_USERS_PER_CHUNK = 500
#: The share of the pairs, by their first time, that the inner split tests on.
_TEST_SHARE = 0.1
#: Events on fewer different days than this are split at random: their times say nothing.
_MIN_DAYS = 10
#: Users that settings are judged by: a sample is enough, and bounds the time.
_USERS = 2_000
#: With fewer users than this nothing can be told apart.
_MIN_USERS = 20

type Report = Callable[[str], None]


class TooFewUsersError(Exception):
    """There are not enough users to tell settings apart."""


def train(events: Interactions, texts: np.ndarray | None, seed: int, report: Report) -> Model:
    """Choose everything from ``events``. Raises ``TooFewUsersError``.

    ``texts``: (items, dimension), as in ``Sources``. ``report`` is called with each decision, in words.
    """
    trial = begin_trial(events, seed)
    by_time = "by time" if trial.by_time else "at random"
    if len(trial.users) < _MIN_USERS:
        raise TooFewUsersError(f"only {len(trial.users)} users have engaged with something new lately")
    report(f"inner split {by_time}: {len(trial.users):,} users, {trial.split.test.nnz:,} pairs")
    grid: list[tuple[str, object, float]] = []
    settings = _choose_settings(trial, grid, report)
    available = [name for name in SOURCES if name != "text" or texts is not None]
    chosen = [choose_sources(examples, seed, available)[0] for examples in trial.examples(settings, texts)]
    # Weights are fitted on the candidates that there will be: what is not used nominates none.
    used = frozenset(name for names in chosen for name in names)
    full, short = trial.examples(settings, texts, used)
    weights, ndcg = _fit_weights(full, chosen[0], seed, report, "full")
    short_weights, short_ndcg = _fit_weights(short, chosen[1], seed, report, "short")
    return Model(settings, weights, short_weights, ndcg, short_ndcg, grid, trial.by_time)


class Comparison(NamedTuple):
    """NDCG@10 of an earlier model, and how far the new one is ahead, with the standard error of that difference."""

    earlier: float
    ahead: float
    se: float

    @property
    def is_worse(self) -> bool:
        """Whether the new model is behind by more than chance explains."""
        return self.ahead < -self.se


def compare_models(events: Interactions, new: Model, earlier: Model, texts: np.ndarray | None, seed: int) -> Comparison:
    """Compare them on the users of the inner split of ``events`` on which ``new`` was chosen, each with its settings.

    The weights of ``new`` are cross-validated there, because they were fitted on these users.
    """
    trial = begin_trial(events, seed)
    candidates, _ = trial.examples(new.settings, texts, new.used)
    sources = [name for name, weight in zip(SOURCES, new.weights, strict=True) if weight]
    own = cross_validate(candidates, draw_folds(candidates, seed), sources)
    others = score_ndcg(trial.examples(earlier.settings, texts, earlier.used)[0], earlier.weights)
    return Comparison(float(others.mean()), float((own - others).mean()), standard_error(own - others))


@dataclass(frozen=True)
class Trial:
    """The inner split, and the users it is judged by: whole, and ``cut`` to a few items each."""

    split: Split
    by_time: bool
    users: np.ndarray
    cut: Interactions

    def examples(
        self, settings: SourceSettings, texts: np.ndarray | None, used: frozenset[str] = frozenset(SOURCES)
    ) -> tuple[Examples, Examples]:
        """The candidates of whole and of cut histories, labelled by the test."""
        sources = learn_sources(self.split.train, self.split.as_of_ms, settings, texts, used)
        test = self.split.test[self.users]
        known = self.split.train.seen()[self.users]
        histories = [sources.histories(events, self.users) for events in (self.split.train, self.cut)]
        # What was cut from a history is neither right nor wrong.
        full, short = (label(find_candidates(sources, each).without(known), test) for each in histories)
        return full, short


def begin_trial(events: Interactions, seed: int) -> Trial:
    """Split the events, and draw the users."""
    split, by_time = split_events(events, seed)
    users = _sample_users(split, seed)
    return Trial(split, by_time, users, cut_histories(split.train, users, seed))


def split_events(events: Interactions, seed: int) -> tuple[Split, bool]:
    """The inner split, and whether it is by time."""
    if len(np.unique(events.at // DAY_MS)) < _MIN_DAYS:
        return split_at_random(events, 2 * _TEST_SHARE, seed), False
    pairs = events.pair
    order = np.lexsort((events.at, pairs))
    first = order[np.concatenate([[True], pairs[order][1:] != pairs[order][:-1]])]
    return split_by_time(events, int(np.quantile(events.at[first], 1 - _TEST_SHARE))), True


def _sample_users(split: Split, seed: int) -> np.ndarray:
    """Users with something to learn from and something to test."""
    known = np.bincount(split.train.user, minlength=split.train.users) > 0
    users = np.flatnonzero(known & (np.diff(split.test.indptr) > 0))
    chosen = np.random.default_rng(seed).permutation(users)[:_USERS]
    return np.sort(chosen)


def _choose_settings(trial: Trial, grid: list[tuple[str, object, float]], report: Report) -> SourceSettings:
    settings = _search(trial, SourceSettings(), GRID, _ItemRidgeScore(trial), grid, report)
    for names, score in (({"beta": BETAS}, _score_walk), ({"user_strength": STRENGTHS}, _score_user_ridge)):
        settings = _search(trial, settings, names, partial(score, trial), grid, report)
    return settings


def _search(
    trial: Trial,
    settings: SourceSettings,
    values: Mapping[str, Sequence[object]],
    score: Callable[[SourceSettings], float],
    grid: list[tuple[str, object, float]],
    report: Report,
) -> SourceSettings:
    """The best of ``values``, one setting after the other, again while anything changes."""
    best = -1.0
    for _ in range(_ROUNDS if len(values) > 1 else 1):
        before = settings
        for name, choices in values.items():
            if name in _OF_TIME and not trial.by_time:
                continue
            tried = {choice: score(replace(settings, **{name: choice})) for choice in choices}  # type: ignore[arg-type]
            grid += [(name, choice, value) for choice, value in tried.items()]
            choice = max(tried, key=lambda each: tried[each])
            if tried[choice] > best:
                settings, best = replace(settings, **{name: choice}), tried[choice]  # type: ignore[arg-type]
            report(f"{name} = {getattr(settings, name)}: NDCG@10 {best:.4f} ({_format(tried)})")
        if settings == before:
            break
    return settings


def _format(tried: Mapping[object, float]) -> str:
    return ", ".join(f"{choice}: {score:.4f}" for choice, score in tried.items())


class _ItemRidgeScore:
    """NDCG@10 of the item ridge alone, which decides what is decayed, and how much. Remembers the last fits."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._fitted = lru_cache(maxsize=16)(self._fit)

    def __call__(self, settings: SourceSettings) -> float:
        weights = self._fitted(settings.half_life, settings.from_first, settings.neighbours, settings.strength)
        split, users = self._trial.split, self._trial.users
        own = split.train.matrix(split.as_of_ms, settings.own_half_life)[users]
        return _score_lists(self._trial, lambda rows: (own[rows] @ weights).toarray())

    def _fit(self, half_life: float | None, from_first: bool, neighbours: int, strength: float) -> sparse.csr_array:
        split = self._trial.split
        return fit_item_ridge(
            split.train.matrix(split.as_of_ms, half_life, from_first=from_first), neighbours, strength
        )


def _score_walk(trial: Trial, settings: SourceSettings) -> float:
    split = trial.split
    walk = fit_walk(split.train.matrix(), settings.beta, settings.neighbours)
    own = split.train.matrix(split.as_of_ms, settings.own_half_life)[trial.users]
    return _score_lists(trial, lambda rows: (own[rows] @ walk).toarray())


def _score_user_ridge(trial: Trial, settings: SourceSettings) -> float:
    split = trial.split
    plain = split.train.matrix()
    decayed = split.train.matrix(split.as_of_ms, settings.half_life, from_first=settings.from_first)
    ridge = UserRidge.build(plain, settings.user_neighbours, settings.user_strength)
    seen = ridge.engaged[trial.users]
    return _score_lists(trial, lambda rows: (ridge.weigh(seen[rows], trial.users[rows]) @ decayed).toarray())


def _score_lists(trial: Trial, score: Callable[[slice], np.ndarray]) -> float:
    """The mean NDCG@10 of lists by ``score``, which returns (users, items) for some of the trial's users."""
    seen, test = trial.split.train.seen()[trial.users], trial.split.test[trial.users]
    values = []
    for start in range(0, len(trial.users), _USERS_PER_CHUNK):
        chunk = slice(start, start + _USERS_PER_CHUNK)
        scores = score(chunk)
        own = seen[chunk].tocoo()
        scores[own.row, own.col] = -np.inf
        best = find_best(scores, LIMIT)
        for row, items in enumerate(best, start=start):
            later = test.indices[test.indptr[row] : test.indptr[row + 1]]
            values.append(ndcg(np.isin(items, later), len(later)))
    return float(np.mean(values)) if values else 0.0


def _fit_weights(
    examples: Examples, sources: Sequence[str], seed: int, report: Report, name: str
) -> tuple[np.ndarray, float]:
    """The weights, and the NDCG@10 in cross-validation."""
    ndcg_10 = float(cross_validate(examples, draw_folds(examples, seed), sources).mean())
    weights = fit(examples, sources)
    shown = ", ".join(f"{source} {weight:.2f}" for source, weight in zip(SOURCES, weights, strict=True) if weight)
    fitted = score_ndcg(examples, weights).mean()
    report(f"{name} histories: NDCG@10 {ndcg_10:.4f} in cross-validation ({fitted:.4f} fitted): {shown or 'nothing'}")
    return weights, ndcg_10


def cut_histories(events: Interactions, users: np.ndarray, seed: int) -> Interactions:
    """The events of each user's latest 1 to SHORT_ITEMS items; those of other users are left out."""
    lengths = np.zeros(events.users, dtype=np.int64)
    lengths[users] = np.random.default_rng(seed).integers(1, SHORT_ITEMS + 1, size=len(users))
    order = np.lexsort((-events.at, events.user))
    rank = _rank_within_user(events, order)
    return events.take(rank < lengths[events.user])


def _rank_within_user(events: Interactions, order: np.ndarray) -> np.ndarray:
    """For each event, how many other items its user engaged with after this item's last time."""
    rank = np.zeros(len(order), dtype=np.int64)
    for rows in _by_user(events.user, order):
        items = events.item[rows]
        _, first, inverse = np.unique(items, return_index=True, return_inverse=True)
        rank[rows] = np.argsort(np.argsort(first))[inverse]
    return rank


def _by_user(user: np.ndarray, order: np.ndarray) -> Iterator[np.ndarray]:
    bounds = np.flatnonzero(np.diff(user[order])) + 1
    yield from np.split(order, bounds)
