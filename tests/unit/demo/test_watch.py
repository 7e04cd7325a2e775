"""The watch over the running stack, on scripted snapshots."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from demo.airflow import DagRun, TaskRun
from demo.watch import AGGREGATE, IDLE, PATIENCE, PRECOMPUTE, Outcome, Snapshot, Verdict, Watch

BEGAN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def run(dag_id: str, state: str, start: float | None = None, end: float | None = None) -> DagRun:
    return DagRun(dag_id, "r", state, None if start is None else at(start), None if end is None else at(end))


def task(state: str, end: float | None = None, task_id: str = "upsert_mongo", start: float = 0) -> TaskRun:
    return TaskRun("ingest_shard_000", "r", task_id, -1, 1, state, at(start), None if end is None else at(end))


NOTHING = Snapshot({0: 10, 1: 5}, {}, 0, 0, 0, 0, 0, (), (), None)
INGESTING = replace(NOTHING, positions={0: 10}, batches=1, hours=3, runs=(run("ingest_shard_001", "running", 1),))
INGESTED = replace(INGESTING, positions={0: 10, 1: 5}, batches=2, runs=(run(AGGREGATE, "running", 20),))
AGGREGATED = replace(INGESTED, hours=0, settled=at(30), runs=(run(PRECOMPUTE, "running", 31),))
DONE = replace(AGGREGATED, runs=(run(PRECOMPUTE, "success", 31, 40),))


def seen(*moments: tuple[float, Snapshot]) -> list[Outcome]:
    watch = Watch(BEGAN)
    return [watch.see(at(second), snapshot) for second, snapshot in moments]


def test_the_usual_course() -> None:
    """Ingested, aggregated, precomputed: done with the end of the first precompute after all else."""
    outcomes = seen((1, NOTHING), (10, INGESTING), (21, INGESTED), (33, AGGREGATED), (42, DONE))
    assert [outcome.verdict for outcome in outcomes] == [Verdict.WAITING] * 4 + [Verdict.DONE]
    assert outcomes[-1].last_list == at(40)


def test_a_precompute_that_began_before_does_not_count() -> None:
    """One that began while hours were still touched has not seen everything."""
    early = replace(DONE, runs=(run(PRECOMPUTE, "success", 29, 45),))
    assert seen((46, early))[0].verdict is Verdict.WAITING


def test_a_failed_precompute_does_not_count() -> None:
    """Lists are there when a run has succeeded."""
    failed = replace(DONE, runs=(run(PRECOMPUTE, "failed", 31, 40),))
    assert seen((42, failed))[0].verdict is Verdict.WAITING


def test_an_aggregation_under_way_is_waited_for() -> None:
    """Hours may be cleared by a run that has not ended: its end is what a precompute must come after."""
    ending = replace(DONE, runs=(*DONE.runs, run(AGGREGATE, "running", 25)))
    later = replace(DONE, settled=at(35))
    last = replace(later, runs=(run(PRECOMPUTE, "success", 36, 44), *DONE.runs))
    outcomes = seen((41, ending), (43, later), (45, last))
    assert [outcome.verdict for outcome in outcomes] == [Verdict.WAITING, Verdict.WAITING, Verdict.DONE]
    assert outcomes[-1].last_list == at(44)


def test_once_settled_later_runs_change_nothing() -> None:
    """Runs that find nothing to do must not put the end off."""
    noise = replace(AGGREGATED, settled=at(38), runs=(run(AGGREGATE, "running", 37), *AGGREGATED.runs))
    assert seen((33, AGGREGATED), (39, noise), (42, replace(DONE, settled=at(38))))[-1].verdict is Verdict.DONE


def test_touched_hours_unsettle() -> None:
    """When an hour is touched again, an earlier precompute is not the last one."""
    again = replace(DONE, hours=1)
    over = replace(DONE, settled=at(50))
    assert [outcome.verdict for outcome in seen((33, AGGREGATED), (42, again), (52, over))] == [Verdict.WAITING] * 3


def test_a_shard_without_messages_needs_no_batch() -> None:
    """A partition that stays empty has no position, and none is waited for."""
    assert replace(DONE, ends={0: 10, 1: 0}, positions={0: 10}).ingested
    assert not replace(DONE, positions={0: 10}).ingested


def test_a_task_out_of_retries_ends_it() -> None:
    """The first task that has failed for good is named."""
    failed = task("failed", 15)
    outcome = seen((16, replace(INGESTING, tasks=(task("running"), failed))))[0]
    assert outcome == Outcome(Verdict.FAILED, failed)


def test_what_failed_before_is_history() -> None:
    """A run that goes on after a failure is not ended by that failure."""
    old = replace(INGESTING, tasks=(task("failed", -60),))
    assert seen((1, old))[0].verdict is Verdict.WAITING


def test_three_minutes_without_progress_end_it() -> None:
    """Neither the clock nor a task that is tried again and again counts as progress."""
    again = task("up_for_retry")
    watch = Watch(BEGAN)
    watch.see(at(5), INGESTING)
    for second in range(10, 185, 5):
        trying = replace(INGESTING, tasks=(task("running" if second % 10 else "up_for_retry"),))
        assert watch.see(at(second), trying).verdict is Verdict.WAITING
    outcome = watch.see(at(5) + PATIENCE, replace(INGESTING, tasks=(task("running", start=9), again)))
    assert outcome == Outcome(Verdict.STALLED, again)


def test_every_kind_of_progress_counts() -> None:
    """Positions, hours, users, texts and tasks done: any change starts the three minutes anew."""
    for change in ({"positions": {0: 11}}, {"hours": 2}, {"users": 1}, {"texts": 1}, {"succeeded": 1}):
        moved = replace(INGESTING, **change)
        verdicts = [outcome.verdict for outcome in seen((0, INGESTING), (179, moved), (300, moved), (360, moved))]
        assert verdicts == [Verdict.WAITING] * 3 + [Verdict.STALLED], change


def test_the_longest_running_task_is_suspected() -> None:
    """With nothing to be tried again, whoever has run for longest is asked for its log: the last of the list."""
    tasks = (task("running", start=50, task_id="embed"), task("running", start=10), task("queued"))
    assert seen((0, INGESTING), (180, replace(INGESTING, tasks=tasks)))[-1].task == tasks[1]


def test_blindness_ends_too() -> None:
    """A stack that does not answer for three minutes is given up, one that comes back is not."""
    watch = Watch(BEGAN)
    watch.see(at(0), INGESTING)
    assert watch.blind(at(179)).verdict is Verdict.WAITING
    assert watch.see(at(179), INGESTED).verdict is Verdict.WAITING
    assert watch.blind(at(358)).verdict is Verdict.WAITING
    assert watch.blind(at(359)).verdict is Verdict.STALLED


def test_a_lost_wake_up_is_made_good() -> None:
    """With everything ingested and no run at all, the DAG that should have come is asked for, once in a while."""
    idle = IDLE.total_seconds()
    touched = replace(INGESTED, runs=())
    nudges = [
        outcome.nudge for outcome in seen((1, INGESTED), (idle, touched), (idle + 1, touched), (idle + 2, touched))
    ]
    assert nudges == [None, None, AGGREGATE, None]
    quiet = replace(AGGREGATED, runs=())
    assert seen((1, AGGREGATED), (idle + 1, quiet))[-1].nudge == PRECOMPUTE


def test_ingest_is_never_nudged() -> None:
    """Its trigger fires again by itself."""
    assert seen((100, replace(INGESTING, runs=())))[0].nudge is None


def test_old_lists_are_no_lists() -> None:
    """After a restart, lists that a precompute made long ago may have ended: a new one is asked for."""
    old = replace(DONE, settled=at(-4000), runs=(run(PRECOMPUTE, "success", -3900, -3800),))
    outcomes = seen((1, old), (50, old), (60, replace(old, runs=(run(PRECOMPUTE, "success", 51, 59), *old.runs))))
    assert [outcome.verdict for outcome in outcomes] == [Verdict.WAITING, Verdict.WAITING, Verdict.DONE]
    assert outcomes[1].nudge == PRECOMPUTE
