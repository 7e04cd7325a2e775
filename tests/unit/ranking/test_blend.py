"""The blend: its loss, its fit, and the choice of its sources."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import check_grad

from include.ranking.blend import (
    Examples,
    _Listwise,
    choose_sources,
    cross_validate,
    draw_folds,
    fit,
    label,
    score_ndcg,
)
from include.ranking.evaluation import find_best, ndcg, recall
from include.ranking.features import SOURCES, Candidates


def make_examples(lists: int = 200, size: int = 30, seed: int = 0) -> Examples:
    """Candidates whose walk predicts the hits, while the text is noise."""
    random = np.random.default_rng(seed)
    features = np.zeros((lists * size, len(SOURCES)))
    for name in ("walk", "text"):
        features[:, SOURCES.index(name)] = random.standard_normal(lists * size)
    signal = features[:, SOURCES.index("walk")] + random.standard_normal(lists * size)
    is_hit = signal > 2
    hits = is_hit.reshape(lists, size).sum(axis=1)
    start = np.arange(lists + 1) * size
    return Examples(Candidates(start, np.tile(np.arange(size), lists), features), is_hit, hits)


def test_the_gradient_of_the_loss() -> None:
    """The gradient agrees with finite differences."""
    problem = _Listwise(np.random.default_rng(0).standard_normal((60, 3)), np.arange(60) % 5 == 0, np.arange(7) * 10)
    point = np.array([0.3, -0.7, 1.1])
    assert check_grad(lambda x: problem.loss(x)[0], lambda x: problem.loss(x)[1], point) < 1e-6


def test_a_fit_weighs_what_predicts() -> None:
    """The source that predicts gets most of the weight; sources that were not asked for get none."""
    weights = dict(zip(SOURCES, fit(make_examples(), ("walk", "text")), strict=True))
    assert weights["walk"] > 10 * abs(weights["text"])
    assert not any(weights[name] for name in SOURCES if name not in ("walk", "text"))


def test_only_sources_that_help_are_chosen() -> None:
    """Cross-validation leaves noise out, and its NDCG is that of users whom the weights were not fitted on."""
    examples = make_examples()
    chosen, best = choose_sources(examples, 0, ("walk", "text"))
    assert chosen == ("walk",)
    assert best == cross_validate(examples, draw_folds(examples, 0), ("walk",)).mean()


def test_examples_without_a_hit_choose_nothing() -> None:
    """Without any later item that is a candidate all weights are zero."""
    examples = make_examples(5)
    none = Examples(examples.candidates, np.zeros_like(examples.is_hit), examples.hits)
    assert not fit(none, ("walk",)).any()
    assert choose_sources(none, 0, ("walk",)) == ((), 0.0)


def test_candidates_are_labelled_by_later_items() -> None:
    """A candidate is a hit if the user engaged with it later; hits that aren't candidates count too."""
    candidates = Candidates(np.array([0, 2, 3]), np.array([1, 2, 2]), np.zeros((3, len(SOURCES))))
    test = sparse.csr_array(np.array([[0, 1, 0, 1], [0, 0, 0, 0]], dtype=bool))
    examples = label(candidates, test)
    assert examples.is_hit.tolist() == [True, False, False]
    assert examples.hits.tolist() == [2, 0]


def test_ndcg_of_lists() -> None:
    """NDCG@10 and Recall@20 by hand: hits at ranks 1 and 3 of three later items."""
    is_hit = np.array([True, False, True] + [False] * 20)
    ideal = 1 + 1 / np.log2(3) + 0.5
    assert ndcg(is_hit, 3) == pytest.approx((1 + 0.5) / ideal)
    assert recall(is_hit, 3) == pytest.approx(2 / 3)
    assert (ndcg(is_hit, 0), recall(is_hit, 0)) == (0, 0)
    assert ndcg(np.ones(30, bool), 30) == 1


def test_lists_are_scored_by_rank() -> None:
    """A list ordered by its hits has NDCG 1."""
    examples = make_examples(20, 8)
    examples.candidates.features[:, 0] = examples.is_hit
    weights = np.eye(len(SOURCES))[0]
    values = score_ndcg(examples, weights)
    assert values[examples.hits > 0] == pytest.approx(1)
    assert not values[examples.hits == 0].any()


def test_the_best_of_a_row() -> None:
    """The greatest scores in order, ties by column."""
    scores = np.array([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, -1.0]])
    assert find_best(scores, 3).tolist() == [[1, 2, 3], [0, 1, 2]]
    assert find_best(scores, 9).shape == (2, 4)
