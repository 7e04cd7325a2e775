"""The sources of the ranking against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from include.ranking.interactions import DAY_MS
from include.ranking.item_ridge import fit_item_ridge
from include.ranking.popularity import log_age, log_popularity
from include.ranking.user_ridge import UserRidge
from include.ranking.walk import fit_walk
from tests.unit.ranking.made_events import make_events
from tests.unit.ranking.test_interactions import interactions

MATRIX = make_events().matrix()


def test_item_ridge_with_every_neighbour_is_ease() -> None:
    """With K = all items the weights are those of EASE (Steck 2019), which is one matrix inversion."""
    matrix = make_events(per_user=30, fidelity=0.5).matrix()
    gram = (matrix.T @ matrix).toarray()
    assert (gram > 0).all()  # otherwise some items would not be neighbours
    diagonal = np.diag(gram)
    penalty = 0.7 * (diagonal**2).sum() / diagonal.sum()
    inverse = np.linalg.inv(gram + penalty * np.eye(len(gram)))
    ease = -inverse / np.diag(inverse)
    np.fill_diagonal(ease, 0)
    assert fit_item_ridge(matrix, neighbours=1_000, strength=0.7).toarray() == pytest.approx(ease, abs=1e-6)


def test_item_ridge_keeps_the_nearest_items() -> None:
    """Each item has at most K weights, of the items that are nearest by cosine, and none of its own."""
    weights = fit_item_ridge(MATRIX, neighbours=5, strength=1.0).toarray()
    gram = (MATRIX.T @ MATRIX).toarray()
    cosine = gram / np.sqrt(np.outer(np.diag(gram), np.diag(gram)))
    np.fill_diagonal(cosine, -1)
    for item in range(weights.shape[1]):
        used = np.flatnonzero(weights[:, item])
        assert len(used) <= 5
        assert item not in used
        assert cosine[used, item].min() >= np.sort(cosine[:, item])[-5] - 1e-12


def test_item_ridge_of_nothing_is_empty() -> None:
    """No engagement, no weights."""
    assert fit_item_ridge(sparse.csr_array((3, 4)), 10, 1.0).nnz == 0


def test_user_ridge_solves_its_equations() -> None:
    """The weights of the nearest users solve (A + lam I) w = b; no user is their own neighbour."""
    ridge = UserRidge.build(MATRIX, neighbours=15, strength=3.0)
    engaged = (MATRIX.toarray() > 0).astype(float)
    users = np.array([0, 7, 50])
    weights = ridge.weigh(ridge.engaged[users], users)
    for row, user in enumerate(users):
        start, end = weights.indptr[row], weights.indptr[row + 1]
        others = weights.indices[start:end]
        assert user not in others
        assert len(others) == 15
        common = engaged[others] @ engaged[others].T + 3.0 * np.eye(len(others))
        expected = np.linalg.solve(common, engaged[others] @ engaged[user])
        assert weights.data[start:end] == pytest.approx(expected, abs=5e-3)


def test_user_ridge_of_a_stranger() -> None:
    """A user that was not learned from gets neighbours by their items; one without items gets none."""
    ridge = UserRidge.build(MATRIX, neighbours=15, strength=3.0)
    seen = sparse.csr_array(np.stack([MATRIX.toarray()[3] > 0, np.zeros(MATRIX.shape[1], bool)]).astype(float))
    weights = ridge.weigh(seen, np.array([-1, -1])).toarray()
    assert weights[0].argmax() == 3
    assert not weights[1].any()


def test_the_walk_is_two_steps_over_the_degree() -> None:
    """Walk weights are those of RP3beta: over the users of an item to their items, less for popular ones."""
    engaged = (MATRIX.toarray() > 0).astype(float)
    by_user, by_item = engaged.sum(axis=1), engaged.sum(axis=0)
    expected = (engaged.T / by_item[:, None]) @ (engaged / by_user[:, None]) / by_item**0.6
    np.fill_diagonal(expected, 0)
    assert fit_walk(MATRIX, beta=0.6, limit=1_000).toarray() == pytest.approx(expected, abs=1e-6)
    assert np.diff(fit_walk(MATRIX, beta=0.6, limit=3).indptr).max() == 3


def test_popularity_counts_each_user_from_the_first_engagement() -> None:
    """A user who returns to an item does not make it more popular; ages count from an item's first engagement."""
    events = interactions([(0, 0, 0, 1.0), (0, 0, 9, 1.0), (1, 0, 10, 0.2), (1, 1, 4, 0.0), (2, 1, 6, 1.0)], items=3)
    as_of = 10 * DAY_MS
    assert log_popularity(events, as_of, (5, None))[0] == pytest.approx(np.log1p([0.25 + 0.2, 1.2]))
    assert np.expm1(log_age(events, as_of)) == pytest.approx([10, 4, 10])
