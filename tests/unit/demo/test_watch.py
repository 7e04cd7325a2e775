"""The watch, tested with scripted snapshots."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from demo.airflow import DagRun, TaskRun
from demo.watch import AGGREGATE, IDLE_TIMEOUT, PRECOMPUTE, STALL_TIMEOUT, Outcome, Snapshot, Verdict, Watch

STARTED_AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return STARTED_AT + timedelta(seconds=seconds)


def run(dag_id: str, state: str, start: float | None = None, end: float | None = None) -> DagRun:
    return DagRun(dag_id, "r", state, None if start is None else at(start), None if end is None else at(end))


def task(state: str, end: float | None = None, task_id: str = "upsert_mongo", start: float = 0) -> TaskRun:
    return TaskRun("ingest_shard_000", "r", task_id, -1, 1, state, at(start), None if end is None else at(end))


NOTHING = Snapshot({0: 10, 1: 5}, {}, 0, 0, 0, 0, 0, (), (), None)
INGESTING = replace(
    NOTHING, positions={0: 10}, batches=1, pending_hours=3, runs=(run("ingest_shard_001", "running", 1),)
)
INGESTED = replace(INGESTING, positions={0: 10, 1: 5}, batches=2, runs=(run(AGGREGATE, "running", 20),))
AGGREGATED = replace(INGESTED, pending_hours=0, quiesced_at=at(30), runs=(run(PRECOMPUTE, "running", 31),))
DONE = replace(AGGREGATED, runs=(run(PRECOMPUTE, "success", 31, 40),))


def evaluate(*snapshots: tuple[float, Snapshot]) -> list[Outcome]:
    watch = Watch(STARTED_AT)
    return [watch.evaluate(at(second), snapshot) for second, snapshot in snapshots]


def test_a_normal_run() -> None:
    """The run is done when the first precompute after ingest and aggregation has ended."""
    outcomes = evaluate((1, NOTHING), (10, INGESTING), (21, INGESTED), (33, AGGREGATED), (42, DONE))
    assert [outcome.verdict for outcome in outcomes] == [Verdict.WAITING] * 4 + [Verdict.DONE]
    assert outcomes[-1].last_list == at(40)


def test_an_early_precompute_does_not_count() -> None:
    """A precompute that started before aggregation was complete has not seen everything."""
    early = replace(DONE, runs=(run(PRECOMPUTE, "success", 29, 45),))
    assert evaluate((46, early))[0].verdict is Verdict.WAITING


def test_a_failed_precompute_does_not_count() -> None:
    """Lists exist only after a precompute has succeeded."""
    failed = replace(DONE, runs=(run(PRECOMPUTE, "failed", 31, 40),))
    assert evaluate((42, failed))[0].verdict is Verdict.WAITING


def test_a_running_aggregation_delays_the_end() -> None:
    """A running aggregation may already have cleared its hours; only a precompute after its end counts."""
    aggregating = replace(DONE, runs=(*DONE.runs, run(AGGREGATE, "running", 25)))
    later = replace(DONE, quiesced_at=at(35))
    last = replace(later, runs=(run(PRECOMPUTE, "success", 36, 44), *DONE.runs))
    outcomes = evaluate((41, aggregating), (43, later), (45, last))
    assert [outcome.verdict for outcome in outcomes] == [Verdict.WAITING, Verdict.WAITING, Verdict.DONE]
    assert outcomes[-1].last_list == at(44)


def test_later_runs_do_not_delay_the_end() -> None:
    """Once everything is aggregated, later runs with nothing to do are ignored."""
    idle_run = replace(AGGREGATED, quiesced_at=at(38), runs=(run(AGGREGATE, "running", 37), *AGGREGATED.runs))
    assert (
        evaluate((33, AGGREGATED), (39, idle_run), (42, replace(DONE, quiesced_at=at(38))))[-1].verdict is Verdict.DONE
    )


def test_a_newly_touched_hour_delays_the_end() -> None:
    """If an hour has to be aggregated again, an earlier precompute no longer counts."""
    touched = replace(DONE, pending_hours=1)
    later = replace(DONE, quiesced_at=at(50))
    assert [outcome.verdict for outcome in evaluate((33, AGGREGATED), (42, touched), (52, later))] == [
        Verdict.WAITING
    ] * 3


def test_a_shard_without_messages_needs_no_batch() -> None:
    """An empty partition has no position and counts as ingested."""
    assert replace(DONE, end_offsets={0: 10, 1: 0}, positions={0: 10}).ingested
    assert not replace(DONE, positions={0: 10}).ingested


def test_a_task_out_of_retries_fails_the_run() -> None:
    """The first task that has failed permanently is reported."""
    failed = task("failed", 15)
    outcome = evaluate((16, replace(INGESTING, tasks=(task("running"), failed))))[0]
    assert outcome == Outcome(Verdict.FAILED, failed)


def test_earlier_failures_are_ignored() -> None:
    """A resumed run does not fail because of a task that failed before it."""
    old = replace(INGESTING, tasks=(task("failed", -60),))
    assert evaluate((1, old))[0].verdict is Verdict.WAITING


def test_three_minutes_without_progress_are_a_stall() -> None:
    """A task that is retried over and over does not count as progress."""
    retrying = task("up_for_retry")
    watch = Watch(STARTED_AT)
    watch.evaluate(at(5), INGESTING)
    for second in range(10, 185, 5):
        retried = replace(INGESTING, tasks=(task("running" if second % 10 else "up_for_retry"),))
        assert watch.evaluate(at(second), retried).verdict is Verdict.WAITING
    outcome = watch.evaluate(at(5) + STALL_TIMEOUT, replace(INGESTING, tasks=(task("running", start=9), retrying)))
    assert outcome == Outcome(Verdict.STALLED, retrying)


def test_every_kind_of_progress_counts() -> None:
    """Any change of positions, hours, users, texts or successful tasks restarts the three minutes."""
    for change in (
        {"positions": {0: 11}},
        {"pending_hours": 2},
        {"pending_users": 1},
        {"embedded_texts": 1},
        {"successful_tasks": 1},
    ):
        moved = replace(INGESTING, **change)
        verdicts = [outcome.verdict for outcome in evaluate((0, INGESTING), (179, moved), (300, moved), (360, moved))]
        assert verdicts == [Verdict.WAITING] * 3 + [Verdict.STALLED], change


def test_the_longest_running_task_is_reported() -> None:
    """If the run stalls and no task is up for retry, the task that has been running longest is reported."""
    tasks = (task("running", start=50, task_id="embed"), task("running", start=10), task("queued"))
    assert evaluate((0, INGESTING), (180, replace(INGESTING, tasks=tasks)))[-1].task == tasks[1]


def test_an_unavailable_stack_is_a_stall() -> None:
    """A stack that does not answer for three minutes has stalled, one that recovers has not."""
    watch = Watch(STARTED_AT)
    watch.evaluate(at(0), INGESTING)
    assert watch.evaluate_without_snapshot(at(179)).verdict is Verdict.WAITING
    assert watch.evaluate(at(179), INGESTED).verdict is Verdict.WAITING
    assert watch.evaluate_without_snapshot(at(358)).verdict is Verdict.WAITING
    assert watch.evaluate_without_snapshot(at(359)).verdict is Verdict.STALLED


def test_a_lost_wake_up_is_made_up_for() -> None:
    """With everything ingested and no active run, the DAG that should be running is triggered once per timeout."""
    idle = IDLE_TIMEOUT.total_seconds()
    touched = replace(INGESTED, runs=())
    triggered = [
        outcome.dag_to_trigger
        for outcome in evaluate((1, INGESTED), (idle, touched), (idle + 1, touched), (idle + 2, touched))
    ]
    assert triggered == [None, None, AGGREGATE, None]
    quiet = replace(AGGREGATED, runs=())
    assert evaluate((1, AGGREGATED), (idle + 1, quiet))[-1].dag_to_trigger == PRECOMPUTE


def test_ingest_is_never_triggered() -> None:
    """The lag trigger of ingest fires again by itself."""
    assert evaluate((100, replace(INGESTING, runs=())))[0].dag_to_trigger is None


def test_expired_lists_do_not_count() -> None:
    """After a restart, lists from an old precompute may have expired, so a new precompute is triggered."""
    old = replace(DONE, quiesced_at=at(-4000), runs=(run(PRECOMPUTE, "success", -3900, -3800),))
    outcomes = evaluate((1, old), (50, old), (60, replace(old, runs=(run(PRECOMPUTE, "success", 51, 59), *old.runs))))
    assert [outcome.verdict for outcome in outcomes] == [Verdict.WAITING, Verdict.WAITING, Verdict.DONE]
    assert outcomes[1].dag_to_trigger == PRECOMPUTE
