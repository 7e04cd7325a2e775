"""Checks the invariants of a run that has settled: the stores against the topic's own messages.

The expected state is worked out from the messages by rules written a second time (``expected_rules.py``), and each
store is read with its plain driver: no code of the pipeline decides what is right.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from include.settings import Settings
from tests.chaos.checker_derived import check_hours, check_profiles
from tests.chaos.checker_ledger import check_conservation, check_drained, check_offsets, read_progress
from tests.chaos.checker_letters import check_letters, check_neighbours
from tests.chaos.checker_lists import check_lists
from tests.chaos.checker_readers import count_vectors
from tests.chaos.checker_replay import compare_snapshots, take_snapshot
from tests.chaos.checker_report import Report
from tests.chaos.checker_stores import check_stores
from tests.chaos.expected import Expected, load_topic, open_expected
from tests.chaos.observations import Observations, Violations


def check(settings: Settings, observations: Observations, prefix: str = "") -> Violations:
    """Check every invariant but the replay (6) and the order of arrival (7).

    Call it when every batch is committed, no hour is touched, no user is changed, and a precompute run that began after
    that has ended. ``prefix``: users and items begin with it, for a graph that others use too.
    """
    report = Report()
    report.skip(6, "call check_replay")
    report.skip(7, "tests/unit/pipeline/test_order.py and make histories check it on random histories in memory")
    with open_expected() as expected, ThreadPoolExecutor(1) as pool:
        counting = pool.submit(count_vectors, settings)  # Milvus waits for its clock, whatever it is asked
        load_topic(expected, settings.kafka, observations.is_poison)
        vectors = counting.result()
        check_stores(settings, expected, report, vectors.messages, prefix)
        check_letters(settings, expected, report)
        check_neighbours(settings, expected, report)
        _check_progress(settings, expected, report, observations)
        check_hours(settings, expected, report)
        check_profiles(settings, expected, report, vectors.profiles)
        check_lists(settings, expected, report)
    _check_observed(report, observations)
    return report.violations()


def check_replay(settings: Settings, replay: Callable[[], None], prefix: str = "") -> Violations:
    """Check invariant 6: ``replay`` ingests every message again, and returns once that has settled."""
    report = Report()
    before = take_snapshot(settings, prefix)
    replay()
    compare_snapshots(before, take_snapshot(settings, prefix), report)
    return report.violations()


def _check_progress(settings: Settings, expected: Expected, report: Report, observations: Observations) -> None:
    progress = read_progress(settings)
    check_conservation(settings, expected, report, progress, observations.published)
    check_offsets(expected, report, progress, observations.offsets)
    check_drained(report, progress)


def _check_observed(report: Report, observations: Observations) -> None:
    if observations.served is None:
        report.skip(9, "no reads were observed")
    else:
        reads, regressions = observations.served.reads, observations.served.regressions
        report.add(9, regressions, f"{regressions:,} of {reads:,} reads returned an older list than before")
    if observations.converged is None:
        report.skip(11, "nobody watched whether it recovered")
    else:
        report.add(11, not observations.converged, "it did not recover in time")
