"""Ranking: the engagements of similar users, decayed, without the user's own items."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.domain.ranking import DAY_MS, Engagements, decay, kind_weight, rank, subtract_centre

NOW = 1_700_000_000_000


def build_engagements(rows: list[tuple[str, str, float, float]]) -> Engagements:
    """Engagements from rows of (user, item, age in days, weight)."""
    users, items = sorted({row[0] for row in rows}), sorted({row[1] for row in rows})
    return Engagements(
        users,
        items,
        np.asarray([users.index(row[0]) for row in rows], dtype=np.int32),
        np.asarray([items.index(row[1]) for row in rows], dtype=np.int32),
        np.asarray([NOW - round(row[2] * DAY_MS) for row in rows], dtype=np.int64),
        np.asarray([row[3] for row in rows], dtype=np.float64),
    )


def rank_for(
    user: str, neighbours: list[tuple[str, float]], engagements: Engagements, limit: int = 10
) -> list[tuple[str, float, int]]:
    """The best items of one user as (item, score, supporters)."""
    [best] = rank([user], [neighbours], engagements, NOW, limit)
    return [
        (engagements.items[item], float(score), int(people))
        for item, score, people in zip(best.items, best.scores, best.supporters, strict=True)
    ]


def test_an_item_scores_by_similarity_and_age() -> None:
    """An item's score is the sum of similarity times decay over the neighbours who engaged with it."""
    engagements = build_engagements([("a", "x", 0, 1), ("b", "x", 90, 1), ("b", "y", 0, 1)])
    [first, second] = rank_for("u", [("a", 0.5), ("b", 0.4)], engagements)
    assert (first[0], first[2], second[0], second[2]) == ("x", 2, "y", 1)
    assert [first[1], second[1]] == pytest.approx([0.5 + 0.4 / 2, 0.4])


def test_own_items_are_left_out() -> None:
    """Items that the user has already engaged with are never recommended."""
    engagements = build_engagements([("a", "x", 0, 1), ("a", "y", 0, 1), ("u", "x", 0, 1)])
    assert [item for item, _, _ in rank_for("u", [("a", 1.0)], engagements)] == ["y"]


def test_returned_items_are_not_recommended() -> None:
    """A returned item is recommended neither to other users nor again to the user who returned it."""
    returned = kind_weight("return")
    engagements = build_engagements([("a", "x", 0, returned), ("u", "y", 0, returned), ("a", "y", 0, 1)])
    assert rank_for("u", [("a", 1.0)], engagements) == []


def test_irrelevant_neighbours_are_ignored() -> None:
    """Neighbours that are dissimilar, have no engagements or are the user itself contribute nothing."""
    engagements = build_engagements([("a", "x", 0, 1), ("u", "y", 0, 1)])
    assert rank_for("u", [("a", 0.0), ("a", -1.0), ("nobody", 1.0), ("u", 1.0)], engagements) == []


def test_ties_are_broken_by_item_id() -> None:
    """Items with the same score are ordered by id."""
    engagements = build_engagements([("a", item, 0, 1) for item in ("c", "a", "b")])
    assert [item for item, _, _ in rank_for("u", [("a", 1.0)], engagements)] == ["a", "b", "c"]


def test_without_engagements_nothing_is_ranked() -> None:
    """Ranking works without any engagements and returns no items."""
    empty = np.empty(0, dtype=np.int64)
    engagements = Engagements([], [], empty, empty, empty, np.empty(0))
    assert rank_for("u", [("a", 1.0)], engagements) == []


rows = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from("wxyz"), st.floats(0, 400), st.floats(0.1, 1)),
    min_size=1,
    unique_by=lambda row: (row[0], row[1]),
)
similarities = st.lists(st.tuples(st.sampled_from("bcd"), st.floats(-1, 1)), unique_by=lambda pair: pair[0])


@given(rows, similarities, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(
    history: list[tuple[str, str, float, float]], neighbours: list[tuple[str, float]], random: object
) -> None:
    """Any order of engagements and neighbours gives the same list, best first, up to rounding."""
    first = rank_for("a", neighbours, build_engagements(history))
    shuffled = sorted(history, key=lambda _: random.random())  # type: ignore[attr-defined]
    second = rank_for("a", neighbours[::-1], build_engagements(shuffled))
    assert {item: people for item, _, people in first} == {item: people for item, _, people in second}
    assert [score for _, score, _ in first] == pytest.approx([score for _, score, _ in second])
    scores = [score for _, score, _ in first]
    assert scores == sorted(scores, reverse=True)
    assert not {item for item, _, _ in first} & {item for user, item, _, _ in history if user == "a"}


def test_the_future_counts_as_today() -> None:
    """An engagement after ``as_of`` weighs as much as one at ``as_of``, never more."""
    assert decay(np.asarray([-DAY_MS, 0, 30 * DAY_MS]), 30).tolist() == [1.0, 1.0, 0.5]


def test_centred_vectors_have_length_one_or_zero() -> None:
    """A vector equal to the centre becomes zero, and every other vector has length one."""
    centred = subtract_centre(np.asarray([[1.0, 1.0], [3.0, 1.0]]), np.asarray([1.0, 1.0]))
    assert centred.tolist() == [[0.0, 0.0], [1.0, 0.0]]
