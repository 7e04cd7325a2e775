"""Ranking: similar users' engagements, decayed, without what the user has."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.domain.ranking import DAY_MS, Engagements, decay, kind_weight, rank, subtract_centre

NOW = 1_700_000_000_000


def engagements(rows: list[tuple[str, str, float, float]]) -> Engagements:
    """From (user, item, age in days, weight)."""
    users, items = sorted({row[0] for row in rows}), sorted({row[1] for row in rows})
    return Engagements(
        users,
        items,
        np.asarray([users.index(row[0]) for row in rows], dtype=np.int32),
        np.asarray([items.index(row[1]) for row in rows], dtype=np.int32),
        np.asarray([NOW - round(row[2] * DAY_MS) for row in rows], dtype=np.int64),
        np.asarray([row[3] for row in rows], dtype=np.float64),
    )


def ranked(
    user: str, neighbours: list[tuple[str, float]], known: Engagements, limit: int = 10
) -> list[tuple[str, float, int]]:
    [best] = rank([user], [neighbours], known, NOW, limit)
    return [
        (known.items[item], float(score), int(people))
        for item, score, people in zip(best.items, best.scores, best.supporters, strict=True)
    ]


def test_an_item_scores_by_similarity_and_age() -> None:
    """The score of an item is the sum of similarity x half-life over the neighbours that have it."""
    known = engagements([("a", "x", 0, 1), ("b", "x", 90, 1), ("b", "y", 0, 1)])
    [first, second] = ranked("u", [("a", 0.5), ("b", 0.4)], known)
    assert (first[0], first[2], second[0], second[2]) == ("x", 2, "y", 1)
    assert [first[1], second[1]] == pytest.approx([0.5 + 0.4 / 2, 0.4])


def test_own_items_are_left_out() -> None:
    """What the user already has an engagement with is never recommended."""
    known = engagements([("a", "x", 0, 1), ("a", "y", 0, 1), ("u", "x", 0, 1)])
    assert [item for item, _, _ in ranked("u", [("a", 1.0)], known)] == ["y"]


def test_a_return_recommends_nothing_but_is_own() -> None:
    """A returned item is not recommended to others, nor again to the one who returned it."""
    known = engagements([("a", "x", 0, kind_weight("return")), ("u", "y", 0, kind_weight("return")), ("a", "y", 0, 1)])
    assert ranked("u", [("a", 1.0)], known) == []


def test_dissimilar_unknown_and_own_neighbours_say_nothing() -> None:
    """Similarities at or below zero, users without engagements and the user itself are ignored."""
    known = engagements([("a", "x", 0, 1), ("u", "y", 0, 1)])
    assert ranked("u", [("a", 0.0), ("a", -1.0), ("nobody", 1.0), ("u", 1.0)], known) == []


def test_ties_are_broken_by_item_id() -> None:
    """Items with the same score come in the order of their ids."""
    known = engagements([("a", item, 0, 1) for item in ("c", "a", "b")])
    assert [item for item, _, _ in ranked("u", [("a", 1.0)], known)] == ["a", "b", "c"]


def test_no_engagements_at_all() -> None:
    """Without any engagement there is nothing to rank, and nothing breaks."""
    empty = np.empty(0, dtype=np.int64)
    known = Engagements([], [], empty, empty, empty, np.empty(0))
    assert ranked("u", [("a", 1.0)], known) == []


rows = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from("wxyz"), st.floats(0, 400), st.floats(0.1, 1)),
    min_size=1,
    unique_by=lambda row: (row[0], row[1]),
)
similarities = st.lists(st.tuples(st.sampled_from("bcd"), st.floats(-1, 1)), unique_by=lambda pair: pair[0])


@given(rows, similarities, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(
    known: list[tuple[str, str, float, float]], neighbours: list[tuple[str, float]], random: object
) -> None:
    """Any order of engagements and neighbours gives the same list, best first, up to rounding."""
    first = ranked("a", neighbours, engagements(known))
    shuffled = sorted(known, key=lambda _: random.random())  # type: ignore[attr-defined]
    second = ranked("a", neighbours[::-1], engagements(shuffled))
    assert {item: people for item, _, people in first} == {item: people for item, _, people in second}
    assert [score for _, score, _ in first] == pytest.approx([score for _, score, _ in second])
    scores = [score for _, score, _ in first]
    assert scores == sorted(scores, reverse=True)
    assert not {item for item, _, _ in first} & {item for user, item, _, _ in known if user == "a"}


def test_the_future_counts_as_today() -> None:
    """An engagement after ``as_of`` weighs as much as one at it, never more."""
    assert decay(np.asarray([-DAY_MS, 0, 30 * DAY_MS]), 30).tolist() == [1.0, 1.0, 0.5]


def test_centred_vectors_have_length_one_or_none() -> None:
    """What is nothing but the centre becomes zero, everything else length one."""
    placed = subtract_centre(np.asarray([[1.0, 1.0], [3.0, 1.0]]), np.asarray([1.0, 1.0]))
    assert placed.tolist() == [[0.0, 0.0], [1.0, 0.0]]
