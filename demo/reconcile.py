"""reconcile: what was found beside what must be there. A pure function over counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Counts:
    """What became of the messages of a topic, and how many rows each store holds.

    ``unique_valid`` counts distinct identities and ``duplicates`` the rest of the valid; ``dead_letters`` is by
    reason; ``lists`` counts users with a recommendation list.
    """

    delivered: int
    unique_valid: int
    duplicates: int
    dead_letters: Mapping[str, int]
    stores: Mapping[str, int]
    lists: int


@dataclass(frozen=True)
class Row:
    """One number of a comparison."""

    name: str
    found: int
    expected: int

    @property
    def right(self) -> bool:
        return self.found == self.expected


def compare(found: Counts, expected: Counts) -> list[Row]:
    """Every number of the two, side by side; what one of them does not know counts as 0 there."""
    pairs = [
        ("delivered", found.delivered, expected.delivered),
        ("unique valid", found.unique_valid, expected.unique_valid),
        ("duplicates", found.duplicates, expected.duplicates),
        ("dead letters", sum(found.dead_letters.values()), sum(expected.dead_letters.values())),
        *_pairs("dead letters: ", found.dead_letters, expected.dead_letters),
        *_pairs("rows in ", found.stores, expected.stores),
        ("lists", found.lists, expected.lists),
    ]
    return [Row(*pair) for pair in pairs]


def differences(found: Counts, expected: Counts, wrong_aggregates: int) -> list[str]:
    """A sentence for each thing that is wrong; empty when everything is accounted for."""
    sentences = [
        f"{row.name}: {row.found:,} found, {row.expected:,} expected"
        for row in compare(found, expected)
        if not row.right
    ]
    accounted = found.unique_valid + found.duplicates + sum(found.dead_letters.values())
    if found.delivered != accounted:
        sentences.append(
            f"{found.delivered:,} were delivered, but unique valid, duplicates and dead letters sum up to {accounted:,}"
        )
    if wrong_aggregates:
        sentences.append(f"{wrong_aggregates:,} rows of the hourly engagement differ from a recount of the events")
    return sentences


def _pairs(prefix: str, found: Mapping[str, int], expected: Mapping[str, int]) -> list[tuple[str, int, int]]:
    names = [*expected, *(name for name in found if name not in expected)]
    return [(prefix + name, found.get(name, 0), expected.get(name, 0)) for name in names]
