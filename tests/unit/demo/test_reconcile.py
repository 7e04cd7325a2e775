"""Comparing what was found with what must be there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from demo.reconcile import Counts, Row, compare, differences

RIGHT = Counts(10, 6, 1, {"invalid_json": 3}, {"mongo": 6, "milvus": 5, "neo4j": 4, "warehouse": 6}, 2)


def test_equal_counts_are_right() -> None:
    """Nothing is said when everything is accounted for."""
    assert differences(RIGHT, RIGHT, 0) == []
    assert all(row.right for row in compare(RIGHT, RIGHT))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"stores": {**RIGHT.stores, "milvus": 4}}, "rows in milvus: 4 found, 5 expected"),
        ({"lists": 1}, "lists: 1 found, 2 expected"),
        ({"stores": {"mongo": 6}}, "rows in warehouse: 0 found, 6 expected"),
        ({"dead_letters": {"invalid_utf8": 3}}, "dead letters: invalid_utf8: 3 found, 0 expected"),
        ({"delivered": 11}, "11 were delivered, but unique valid, duplicates and dead letters sum up to 10"),
    ],
)
def test_each_difference_is_a_sentence(changed: dict[str, object], sentence: str) -> None:
    """Too few, too many, absent or of another name: each is told."""
    assert sentence in differences(replace(RIGHT, **changed), RIGHT, 0)  # type: ignore[arg-type]


def test_wrong_aggregates_are_told() -> None:
    """Equal counts do not hide an aggregate that differs from its recount."""
    assert differences(RIGHT, RIGHT, 2) == ["2 rows of the hourly engagement differ from a recount of the events"]


def test_rows_keep_the_order_of_what_is_expected() -> None:
    """The table reads the same way every time."""
    names = [row.name for row in compare(RIGHT, RIGHT)]
    assert names[:5] == ["delivered", "unique valid", "duplicates", "dead letters", "dead letters: invalid_json"]
    assert names[-1] == "lists"
    assert Row("lists", 1, 2).right is False
