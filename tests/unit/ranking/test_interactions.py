"""Interactions as matrices, and their splits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.ranking.interactions import DAY_MS, Interactions, Split, split_at_random, split_by_time

ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 30), st.sampled_from([0.0, 0.2, 1.0])), max_size=40
)


def interactions(rows: list[tuple[int, int, int, float]], users: int = 4, items: int = 5) -> Interactions:
    """From (user, item, day, weight)."""
    columns = [np.array(column) for column in zip(*rows, strict=True)] or [np.empty(0)] * 4
    user, item, day, weight = columns
    at = day.astype(np.int64) * DAY_MS
    return Interactions(users, items, user.astype(np.int32), item.astype(np.int32), at, weight.astype(float))


def test_a_pair_has_its_greatest_weight_decayed_from_its_last_or_first_event() -> None:
    """Several events of a user with an item are one entry; an event that weighs nothing does not date it."""
    events = interactions([(0, 1, 0, 0.2), (0, 1, 10, 1.0), (0, 1, 15, 0.0), (1, 2, 20, 0.0)])
    assert events.matrix().toarray()[0, 1] == 1.0
    assert events.matrix().nnz == 1
    assert events.matrix(20 * DAY_MS, 10).toarray()[0, 1] == 0.5
    assert events.matrix(20 * DAY_MS, 10, from_first=True).toarray()[0, 1] == 0.25
    assert events.matrix(0, 10).toarray()[0, 1] == 1.0  # an event of the future is not worth more
    assert {tuple(pair) for pair in np.argwhere(events.seen().toarray())} == {(0, 1), (1, 2)}


@given(ROWS, st.integers(0, 31))
def test_a_split_by_time_leaks_nothing(rows: list[tuple[int, int, int, float]], day: int) -> None:
    """Train has the events before the cut and nothing else; test only pairs of which train has no event."""
    events = interactions(rows)
    split = split_by_time(events, day * DAY_MS)
    assert sorted(split.train.at) == sorted(at for at in events.at if at < day * DAY_MS)
    known = {(user, item) for user, item, at, _ in rows if at < day}
    later = {(user, item) for user, item, at, weight in rows if at >= day and weight > 0}
    assert _pairs(split) == later - known


@given(ROWS, st.integers(0, 5))
def test_a_split_at_random_separates_pairs(rows: list[tuple[int, int, int, float]], seed: int) -> None:
    """All events of a pair are on one side, and the same seed gives the same split."""
    events = interactions(rows)
    split = split_at_random(events, 0.4, seed)
    train = set(zip(split.train.user.tolist(), split.train.item.tolist(), strict=True))
    assert not train & _pairs(split)
    assert _pairs(split) == _pairs(split_at_random(events, 0.4, seed))
    assert train | _pairs(split) >= {(user, item) for user, item, _, weight in rows if weight > 0}


def _pairs(split: Split) -> set[tuple[int, int]]:
    return {(int(user), int(item)) for user, item in np.argwhere(split.test.toarray())}


def test_a_random_split_has_about_its_share() -> None:
    """A fifth of many pairs."""
    rows = [(user, item, 0, 1.0) for user in range(60) for item in range(50)]
    assert split_at_random(interactions(rows, 60, 50), 0.2, 3).test.nnz == pytest.approx(600, rel=0.1)
