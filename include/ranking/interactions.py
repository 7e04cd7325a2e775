"""Who engaged with what and when, as arrays, and how they are split to choose settings on data that was not seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

DAY_MS = 86_400_000


@dataclass(frozen=True)
class Interactions:
    """Engagements as parallel arrays, one entry per event.

    ``user`` and ``item`` (int32) are rows and columns of a ``users`` x ``items`` matrix, ``at`` is in ms since 1970
    (int64), ``weight`` is that of the event's kind (float64), 0 for a return.
    """

    users: int
    items: int
    user: np.ndarray
    item: np.ndarray
    at: np.ndarray
    weight: np.ndarray

    def take(self, rows: np.ndarray) -> Interactions:
        """Some of the events: a bool array, or positions."""
        return Interactions(self.users, self.items, self.user[rows], self.item[rows], self.at[rows], self.weight[rows])

    @property
    def pair(self) -> np.ndarray:
        """One number (int64) per event that is the same for the same user and item."""
        pairs: np.ndarray = self.user.astype(np.int64) * self.items + self.item
        return pairs

    def matrix(
        self, as_of_ms: int = 0, half_life_days: float | None = None, *, from_first: bool = False
    ) -> sparse.csr_array:
        """users x items, float64: the greatest weight of each pair's events, times 0.5 ** (age / half-life).

        The age is that of the pair's last event, or with ``from_first`` of the first: when the user took to the item.
        Without a half-life nothing is decayed. Pairs whose every weight is zero or less are left out.
        """
        keep = np.flatnonzero(self.weight > 0)
        order = keep[np.lexsort((self.at[keep], self.pair[keep]))]
        pairs = self.pair[order]
        begin = np.flatnonzero(np.concatenate([[True], pairs[1:] != pairs[:-1]])[: len(pairs)])
        end = np.concatenate([begin[1:], [len(pairs)]]) - 1 if len(begin) else begin
        values = np.maximum.reduceat(self.weight[order], begin) if len(begin) else np.empty(0)
        if half_life_days is not None:
            ages = as_of_ms - self.at[order[begin if from_first else end]]
            values = values * np.exp2(-np.maximum(ages, 0) / (half_life_days * DAY_MS))
        best = order[begin]
        shape = (self.users, self.items)
        return sparse.csr_array((values, (self.user[best], self.item[best])), shape=shape)

    def seen(self) -> sparse.csr_array:
        """users x items, ones: every pair, also those that weigh nothing."""
        pairs = np.unique(self.pair)
        index = pairs // max(1, self.items), pairs % max(1, self.items)
        return sparse.csr_array((np.ones(len(pairs)), index), shape=(self.users, self.items))


@dataclass(frozen=True)
class Split:
    """``train``: the events that may be used; ``test``: users x items, bool, pairs that begin only after them."""

    train: Interactions
    test: sparse.csr_array
    as_of_ms: int


def split_by_time(events: Interactions, cut_ms: int) -> Split:
    """Train on the events before the cut; test on pairs whose first event is not before it.

    The train events are cut before anything is computed from them: a pair's last time, taken from all events, would
    tell which pairs are engaged with again after the cut.
    """
    is_train = events.at < cut_ms
    return _split(events, is_train, cut_ms)


def split_at_random(events: Interactions, share: float, seed: int) -> Split:
    """Test on a share of each user's pairs, chosen by a hash of the pair and the seed: for data without times."""
    pairs, inverse = np.unique(events.pair, return_inverse=True)
    chosen = np.random.default_rng(seed).random(len(pairs)) < share
    as_of = int(events.at.max()) + 1 if len(events.at) else 0
    return _split(events, ~chosen[inverse], as_of)


def _split(events: Interactions, is_train: np.ndarray, as_of_ms: int) -> Split:
    train, rest = events.take(is_train), events.take(~is_train)
    test = rest.matrix()
    known = train.seen()
    test.data = np.ones_like(test.data)
    new = test - test.multiply(known)
    new = sparse.csr_array(new)
    new.eliminate_zeros()
    new.data = np.ones_like(new.data, dtype=bool)
    return Split(train, new.astype(bool), as_of_ms)
