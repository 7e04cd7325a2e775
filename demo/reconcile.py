"""Compare the counts in the stores with the expected ones. Pure functions over counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Counts:
    """What happened to the messages of a topic, and how many rows each store has.

    ``unique_valid`` counts distinct identities and ``duplicates`` the other valid events. ``dead_letters`` is by
    reason. ``lists`` counts users with a recommendation list.
    """

    delivered: int
    unique_valid: int
    duplicates: int
    dead_letters: Mapping[str, int]
    stores: Mapping[str, int]
    lists: int


@dataclass(frozen=True)
class Comparison:
    """One actual count and its expected value."""

    name: str
    actual: int
    expected: int

    @property
    def matches(self) -> bool:
        return self.actual == self.expected


def compare(actual: Counts, expected: Counts) -> list[Comparison]:
    """Compare every count; one that is missing on either side is 0 there."""
    rows = [
        ("delivered", actual.delivered, expected.delivered),
        ("unique valid", actual.unique_valid, expected.unique_valid),
        ("duplicates", actual.duplicates, expected.duplicates),
        ("dead letters", sum(actual.dead_letters.values()), sum(expected.dead_letters.values())),
        *_pair_by_name("dead letters: ", actual.dead_letters, expected.dead_letters),
        *_pair_by_name("rows in ", actual.stores, expected.stores),
        ("lists", actual.lists, expected.lists),
    ]
    return [Comparison(*row) for row in rows]


def describe_mismatches(actual: Counts, expected: Counts, wrong_aggregates: int) -> list[str]:
    """Returns one sentence per mismatch; empty if everything is accounted for."""
    sentences = [
        f"{row.name}: {row.actual:,}, expected {row.expected:,}" for row in compare(actual, expected) if not row.matches
    ]
    accounted_for = actual.unique_valid + actual.duplicates + sum(actual.dead_letters.values())
    if actual.delivered != accounted_for:
        sentences.append(
            f"{actual.delivered:,} messages were delivered, but unique valid, duplicates and dead letters "
            f"add up to {accounted_for:,}"
        )
    if wrong_aggregates:
        sentences.append(f"{wrong_aggregates:,} rows of the hourly engagement differ from a recount of the events")
    return sentences


def _pair_by_name(prefix: str, actual: Mapping[str, int], expected: Mapping[str, int]) -> list[tuple[str, int, int]]:
    names = [*expected, *(name for name in actual if name not in expected)]
    return [(prefix + name, actual.get(name, 0), expected.get(name, 0)) for name in names]
