"""Popularity of items at several half-lives, and how long they have been on offer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from include.ranking.interactions import DAY_MS, Interactions


def log_popularity(events: Interactions, as_of_ms: int, half_lives: Sequence[float | None]) -> np.ndarray:
    """(items, half-lives) float64: log(1 + the number of users per item, decayed since each one's first engagement).

    None does not decay. Differences between the columns are the trend of an item.
    """
    columns = [events.matrix(as_of_ms, half_life, from_first=True).sum(axis=0) for half_life in half_lives]
    return np.log1p(np.stack([np.asarray(column).ravel() for column in columns], axis=1))


def log_age(events: Interactions, as_of_ms: int) -> np.ndarray:
    """(items,) float64: log(1 + days since an item's first engagement); an item without any is as old as the oldest."""
    engaged = events.take(events.weight > 0)
    first = np.full(events.items, as_of_ms, dtype=np.int64)
    np.minimum.at(first, engaged.item, engaged.at)
    first[np.bincount(engaged.item, minlength=events.items) == 0] = engaged.at.min() if len(engaged.at) else as_of_ms
    return log_days(as_of_ms - first)


def log_days(ages_ms: np.ndarray) -> np.ndarray:
    """log(1 + days) of ages in ms; a negative age counts as zero."""
    days: np.ndarray = np.log1p(np.maximum(ages_ms, 0) / DAY_MS)
    return days
