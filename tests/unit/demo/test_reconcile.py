"""Comparing actual counts with expected ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from demo.reconcile import Comparison, Counts, compare, describe_mismatches

COUNTS = Counts(10, 6, 1, {"invalid_json": 3}, {"mongo": 6, "milvus": 5, "neo4j": 4, "warehouse": 6}, 2)


def test_equal_counts_match() -> None:
    """There is no message when everything is accounted for."""
    assert describe_mismatches(COUNTS, COUNTS, 0) == []
    assert all(row.matches for row in compare(COUNTS, COUNTS))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stores": {**COUNTS.stores, "milvus": 4}}, "rows in milvus: 4, expected 5"),
        ({"lists": 1}, "lists: 1, expected 2"),
        ({"stores": {"mongo": 6}}, "rows in warehouse: 0, expected 6"),
        ({"dead_letters": {"invalid_utf8": 3}}, "dead letters: invalid_utf8: 3, expected 0"),
        ({"delivered": 11}, "11 messages were delivered, but unique valid, duplicates and dead letters add up to 10"),
    ],
)
def test_each_mismatch_is_a_sentence(changes: dict[str, object], sentence: str) -> None:
    """Counts that are too low, too high, missing or unexpected are all reported."""
    assert sentence in describe_mismatches(replace(COUNTS, **changes), COUNTS, 0)  # type: ignore[arg-type]


def test_wrong_aggregates_are_reported() -> None:
    """Equal counts do not hide aggregates that differ from a recount."""
    assert describe_mismatches(COUNTS, COUNTS, 2) == [
        "2 rows of the hourly engagement differ from a recount of the events"
    ]


def test_rows_have_a_fixed_order() -> None:
    """Rows are in the order of the expected counts, so the table looks the same every time."""
    names = [row.name for row in compare(COUNTS, COUNTS)]
    assert names[:5] == ["delivered", "unique valid", "duplicates", "dead letters", "dead letters: invalid_json"]
    assert names[-1] == "lists"
    assert Comparison("lists", 1, 2).matches is False
