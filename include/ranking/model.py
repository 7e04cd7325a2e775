"""What training chooses: settings and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from include.ranking.features import SOURCES, Histories, SourceSettings

#: Users with no more items than this have weights of their own.
SHORT_ITEMS = 4


@dataclass(frozen=True)
class Model:
    """The settings, and the weights of SOURCES: for users with more than SHORT_ITEMS items, and for the others.

    ``ndcg`` and ``short_ndcg``: NDCG@10 in cross-validation on the inner split. ``grid``: (setting, value, NDCG@10 on
    the inner split) of everything that was tried.
    """

    settings: SourceSettings
    weights: np.ndarray
    short_weights: np.ndarray
    ndcg: float
    short_ndcg: float
    grid: Sequence[tuple[str, object, float]]
    is_split_by_time: bool

    @property
    def used(self) -> frozenset[str]:
        """The sources that weigh anything."""
        weigh = (self.weights != 0) | (self.short_weights != 0)
        return frozenset(name for name, used in zip(SOURCES, weigh, strict=True) if used)

    def weights_for(self, histories: Histories) -> np.ndarray:
        """(users, SOURCES)."""
        items = np.diff(histories.seen.indptr)
        weights: np.ndarray = np.where((items > SHORT_ITEMS)[:, None], self.weights, self.short_weights)
        return weights
