"""Decide from snapshots whether the pipeline has finished, has failed, or is still working.

``Watch`` is a state machine over snapshots: it has no connections and reads no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from demo.airflow import DagRun, TaskRun

INGEST = "ingest_shard_"
AGGREGATE = "aggregate_engagement"
PRECOMPUTE = "precompute_recommendations"

#: Give up after this long without progress.
STALL_TIMEOUT = timedelta(minutes=3)
#: With work pending but no DAG run for this long, trigger one. Airflow 3.3 can lose a wake-up (apache/airflow#56050);
#: the next scheduled run would make up for it, but the demo does not wait that long.
IDLE_TIMEOUT = timedelta(seconds=45)
#: Lists live for at least five minutes, so lists from a precompute older than this may have expired.
MAX_PRECOMPUTE_AGE = timedelta(minutes=4)


@dataclass(frozen=True)
class Snapshot:
    """The state of the pipeline at one moment. Every shard must reach its end offset.

    ``quiesced_at`` is when the last batch was committed or the last aggregation ended, whichever is later; None until
    both have happened.
    """

    end_offsets: Mapping[int, int]
    positions: Mapping[int, int]
    batches: int
    pending_hours: int
    pending_users: int
    embedded_texts: int
    successful_tasks: int
    runs: Sequence[DagRun]
    tasks: Sequence[TaskRun]
    quiesced_at: datetime | None

    @property
    def ingested(self) -> bool:
        """Whether the ledger has reached the end of the topic."""
        return all(self.positions.get(shard, 0) >= end for shard, end in self.end_offsets.items())

    @property
    def aggregated(self) -> bool:
        """Whether everything is ingested and no hour is waiting to be aggregated again."""
        return self.ingested and self.pending_hours == 0

    def has_active_run(self, *dag_prefixes: str) -> bool:
        """Whether a run of one of these DAGs is queued or running."""
        return any(run.state in ("queued", "running") and run.dag_id.startswith(dag_prefixes) for run in self.runs)

    def find_precomputes_since(self, moment: datetime) -> list[DagRun]:
        """Returns successful precomputes that started at or after ``moment``, and so have seen all data until then."""
        return [
            run
            for run in self.runs
            if run.dag_id == PRECOMPUTE and run.state == "success" and run.start and run.start >= moment
        ]


class Verdict(StrEnum):
    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"
    STALLED = "stalled"


@dataclass(frozen=True)
class Outcome:
    """What a snapshot means. ``task`` is the likely culprit, if any; ``dag_to_trigger`` a DAG that was not woken up."""

    verdict: Verdict
    task: TaskRun | None = None
    dag_to_trigger: str | None = None
    last_list: datetime | None = None


class Watch:
    """Pass it snapshots in chronological order. Failures before ``started_at`` are ignored."""

    def __init__(self, started_at: datetime) -> None:
        self._started_at = started_at
        self._last_progress_at = started_at
        self._last_active_at = started_at
        self._last_progress: object = None
        self._quiesced_at: datetime | None = None

    def evaluate(self, now: datetime, snapshot: Snapshot) -> Outcome:
        """Evaluate one snapshot."""
        self._update(now, snapshot)
        failed_task = self._find_failed_task(snapshot)
        if failed_task is not None:
            return Outcome(Verdict.FAILED, failed_task)
        last_list = self._find_last_list_time(now, snapshot)
        if last_list is not None:
            return Outcome(Verdict.DONE, last_list=last_list)
        if now - self._last_progress_at >= STALL_TIMEOUT:
            return Outcome(Verdict.STALLED, _find_blocking_task(snapshot))
        return Outcome(Verdict.WAITING, dag_to_trigger=self._choose_dag_to_trigger(now, snapshot))

    def evaluate_without_snapshot(self, now: datetime) -> Outcome:
        """Evaluate a moment at which no snapshot could be taken because a server did not answer."""
        return Outcome(Verdict.STALLED if now - self._last_progress_at >= STALL_TIMEOUT else Verdict.WAITING)

    def _update(self, now: datetime, snapshot: Snapshot) -> None:
        # Only completed work counts: a task that is retried over and over changes its state, too.
        progress = (
            dict(snapshot.positions),
            snapshot.pending_hours,
            snapshot.pending_users,
            snapshot.embedded_texts,
            snapshot.successful_tasks,
        )
        if progress != self._last_progress:
            self._last_progress, self._last_progress_at = progress, now
        if snapshot.has_active_run(INGEST, AGGREGATE, PRECOMPUTE):
            self._last_active_at = now
        if not snapshot.aggregated:
            self._quiesced_at = None
        elif self._quiesced_at is None and not snapshot.has_active_run(INGEST, AGGREGATE):
            # Do not move it later: further runs have nothing to do.
            self._quiesced_at = snapshot.quiesced_at

    def _find_failed_task(self, snapshot: Snapshot) -> TaskRun | None:
        for task in snapshot.tasks:
            if task.state == "failed" and task.end is not None and task.end >= self._started_at:
                return task
        return None

    def _find_last_list_time(self, now: datetime, snapshot: Snapshot) -> datetime | None:
        """Returns when the first precompute ended that started after everything was aggregated."""
        if self._quiesced_at is None:
            return None
        oldest = min(now, self._started_at) - MAX_PRECOMPUTE_AGE
        ends = [run.end for run in snapshot.find_precomputes_since(self._quiesced_at) if run.end and run.end >= oldest]
        return min(ends, default=None)

    def _choose_dag_to_trigger(self, now: datetime, snapshot: Snapshot) -> str | None:
        if now - self._last_active_at < IDLE_TIMEOUT or not snapshot.ingested:
            return None
        self._last_active_at = now
        return PRECOMPUTE if snapshot.aggregated and snapshot.quiesced_at is not None else AGGREGATE


def _find_blocking_task(snapshot: Snapshot) -> TaskRun | None:
    """Returns a task that is up for retry, or else the one that has been running longest."""
    retrying = [task for task in snapshot.tasks if task.state == "up_for_retry"]
    running = [task for task in snapshot.tasks if task.state == "running"]
    return next(iter([*retrying, *reversed(running)]), None)
