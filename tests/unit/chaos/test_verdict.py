"""What a chaos run concludes from its facts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.injector import Applied
from tests.chaos.observations import Violations
from tests.chaos.schedule import Fault
from tests.chaos.verdict import Run, build_report, find_failures, format_table, percentile, recovery_seconds


def _applied(kind: str, ended: float, *, target: str = "", hit: bool = True, failed: str = "") -> Applied:
    return Applied(Fault(0, kind, target), target, ended, ended, hit, failed)


PASSED = Run(
    seed=7,
    seconds=60,
    events=5_000,
    min_events=3_000,
    applied=[_applied("kill_mongo", 10, target="mongo"), _applied("kill_mongo", 30, hit=False, target="mongo")],
    progress=[(0, 0), (14, 100), (31, 200)],
    converge_seconds=12.34,
    left="",
    violations=Violations({1: 0, 5: 0}, [], {6: "no time"}),
)


def test_a_run_without_problems_passes() -> None:
    """Nothing is wrong, and the report has the agreed keys first."""
    assert find_failures(PASSED) == []
    report = build_report(PASSED)
    assert list(report)[:6] == ["seed", "faults", "hits_in_flight", "events", "violations", "converge_seconds"]
    assert report["faults"] == {"kill_mongo": 2}
    assert report["hits_in_flight"] == {"kill_mongo": 1}
    assert report["converge_seconds"] == 12.3
    assert "unchecked" in format_table(PASSED)


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (replace(PASSED, violations=Violations({1: 0, 5: 2}, ["x"], {})), "invariants 5"),
        (replace(PASSED, converge_seconds=None, left="3 hours"), "3 hours"),
        (replace(PASSED, events=2_999), "2,999 events"),
        (replace(PASSED, applied=[]), "no fault"),
        (replace(PASSED, applied=[_applied("reset", 5, hit=False)]), "reset"),
        (replace(PASSED, applied=[*PASSED.applied, _applied("kill_task", 5, failed="gone")]), "gone"),
        (replace(PASSED, given_up=["neo4j"]), "neo4j"),
    ],
)
def test_a_run_with_a_problem_fails(run: Run, reason: str) -> None:
    """A violation, no convergence, too few events, a fault that met no work: each alone is a reason to fail."""
    (failure,) = find_failures(run)
    assert reason in failure


def test_recovery_is_the_time_until_the_ledger_moves() -> None:
    """From the end of the fault to the next progress; faults of Milvus are listed apart."""
    applied = [*PASSED.applied, _applied("pause_server", 20, target="milvus"), _applied("reset", 40, target="redis")]
    assert recovery_seconds(applied, PASSED.progress) == {"kill_mongo": [4, 1], "pause_server:milvus": [11]}


def test_percentiles_are_values_that_occurred() -> None:
    """The 95th percentile of 20 values is the 19th."""
    assert percentile(list(range(1, 21)), 0.95) == 19
    assert percentile([5.0], 0.95) == 5
