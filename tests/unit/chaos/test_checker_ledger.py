"""What the checker concludes from samples of offsets."""

from __future__ import annotations

import pytest

from tests.chaos.checker_ledger import Progress, check_cover, check_offsets
from tests.chaos.checker_report import Report
from tests.chaos.expected import open_expected
from tests.chaos.expected_topic import Range
from tests.chaos.observations import OffsetSample, Position, VersionWatch


def count_violations(*positions: Position | None) -> int:
    """The violations of invariant 5 in samples of one shard; None is a sample that could not be taken."""
    samples = [OffsetSample(at, {} if each is None else {0: each}) for at, each in enumerate(positions)]
    report = Report()
    with open_expected() as expected:
        check_offsets(expected, report, Progress({}, {}, {}), samples)
    return report.violations().counts[5]


@pytest.mark.parametrize(
    "positions",
    [
        (Position(None, None), Position(None, 3), Position(3, 3), Position(3, 7), Position(7, 7)),
        (Position(3, 7), None, Position(7, 7)),
    ],
)
def test_offsets_that_follow_the_ledger_are_right(positions: tuple[Position | None, ...]) -> None:
    """The ledger moves first, then the group; a sample may be missing."""
    assert count_violations(*positions) == 0


@pytest.mark.parametrize(
    "positions",
    [
        (Position(7, 7), Position(3, 7)),
        (Position(3, 7), Position(3, 3)),
        (Position(7, 7), None, Position(3, 7)),
        (Position(7, 7), Position(None, 7)),
        (Position(7, 3),),
        (Position(1, None),),
    ],
)
def test_an_offset_that_falls_or_runs_ahead_is_found(positions: tuple[Position | None, ...]) -> None:
    """Each of these is one violation: a fall, also across a missing sample, or a group ahead of the ledger."""
    assert count_violations(*positions) == 1


def test_an_older_list_is_a_regression_until_a_newer_one_is_read() -> None:
    """Only reads older than the newest one of the same user count."""
    watch = VersionWatch()
    for user, version in [("a", 5), ("b", 1), ("a", 5), ("a", 4), ("a", 6), ("b", 0)]:
        watch.see(user, version)
    assert watch.served == (6, 2)


@pytest.mark.parametrize(
    ("batches", "count"),
    [
        ([(0, 4), (4, 9)], 0),
        ([(-3, 4), (4, 9)], 0),
        ([(2, 4), (4, 9)], 2),
        ([(0, 4), (5, 9)], 1),
        ([(0, 5), (4, 9)], 1),
        ([(0, 4), (4, 8)], 1),
        ([], 9),
    ],
)
def test_batches_must_cover_every_offset_once(batches: list[tuple[int, int]], count: int) -> None:
    """Every offset of [0, 9) that is in no batch, or in two, is a violation; earlier ones may be gone."""
    report = Report()
    report.checked(3)
    check_cover(report, 0, batches, Range(0, 9))
    assert report.violations().counts[3] == count
