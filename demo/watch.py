"""Waiting until all is ingested, aggregated and recommended, or until it is clear that it will not be.

``Watch`` is a state machine over snapshots: it holds no connection, reads no clock, and says what each one means.
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

#: As long as this without any progress means that none will come.
PATIENCE = timedelta(minutes=3)
#: As long as this with work to do and no run for it: Airflow 3.3 may lose a wake-up (apache/airflow#56050), which
#: the next scheduled run makes good; the demo asks for that run instead of waiting for it.
IDLE = timedelta(seconds=45)
#: Lists live for five minutes and more. A precompute that ended longer ago, before a restart, says nothing of now.
FRESH = timedelta(minutes=4)


@dataclass(frozen=True)
class Snapshot:
    """What was seen at one moment. ``ends`` is where each shard must get to; ``succeeded`` counts tasks.

    ``settled`` is when a batch was last committed or an aggregation last ended, None before both have happened.
    """

    ends: Mapping[int, int]
    positions: Mapping[int, int]
    batches: int
    hours: int
    users: int
    texts: int
    succeeded: int
    runs: Sequence[DagRun]
    tasks: Sequence[TaskRun]
    settled: datetime | None

    @property
    def ingested(self) -> bool:
        """Whether the ledger has reached the end of the topic."""
        return all(self.positions.get(shard, 0) >= end for shard, end in self.ends.items())

    @property
    def aggregated(self) -> bool:
        """Whether, on top of that, no hour waits to be done again."""
        return self.ingested and self.hours == 0

    def active(self, *dags: str) -> bool:
        """Whether a run of one of these DAGs (by prefix) waits or runs."""
        return any(run.state in ("queued", "running") and run.dag_id.startswith(dags) for run in self.runs)

    def precomputed_since(self, moment: datetime) -> list[DagRun]:
        """The precomputes that began then or later and succeeded: their lists rest on all that was there."""
        made = [run for run in self.runs if run.dag_id == PRECOMPUTE and run.state == "success"]
        return [run for run in made if run.start and run.start >= moment]


class Verdict(StrEnum):
    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"
    STALLED = "stalled"


@dataclass(frozen=True)
class Outcome:
    """What a snapshot means. ``task`` is the one to blame, where one is; ``nudge`` a DAG that nothing woke."""

    verdict: Verdict
    task: TaskRun | None = None
    nudge: str | None = None
    last_list: datetime | None = None


class Watch:
    """``began`` is when this watching began: what failed before it is history. Give it snapshots in their order."""

    def __init__(self, began: datetime) -> None:
        self._began = began
        self._progressed = began
        self._busy = began
        self._seen: object = None
        self._settled: datetime | None = None

    def see(self, now: datetime, snapshot: Snapshot) -> Outcome:
        """Judge one snapshot."""
        self._note(now, snapshot)
        failed = self._failed(snapshot)
        if failed is not None:
            return Outcome(Verdict.FAILED, failed)
        last_list = self._last_list(now, snapshot)
        if last_list is not None:
            return Outcome(Verdict.DONE, last_list=last_list)
        if now - self._progressed >= PATIENCE:
            return Outcome(Verdict.STALLED, _suspect(snapshot))
        return Outcome(Verdict.WAITING, nudge=self._nudge(now, snapshot))

    def blind(self, now: datetime) -> Outcome:
        """Judge a moment at which no snapshot could be taken: some server did not answer."""
        return Outcome(Verdict.STALLED if now - self._progressed >= PATIENCE else Verdict.WAITING)

    def _note(self, now: datetime, snapshot: Snapshot) -> None:
        # A task that is tried again and again changes its state too: only what has been got done counts.
        done = (dict(snapshot.positions), snapshot.hours, snapshot.users, snapshot.texts, snapshot.succeeded)
        if done != self._seen:
            self._seen, self._progressed = done, now
        if snapshot.active(INGEST, AGGREGATE, PRECOMPUTE):
            self._busy = now
        if not snapshot.aggregated:
            self._settled = None
        elif self._settled is None and not snapshot.active(INGEST, AGGREGATE):
            # Once found it stays: runs that come later find nothing to do.
            self._settled = snapshot.settled

    def _failed(self, snapshot: Snapshot) -> TaskRun | None:
        for task in snapshot.tasks:
            if task.state == "failed" and task.end is not None and task.end >= self._began:
                return task
        return None

    def _last_list(self, now: datetime, snapshot: Snapshot) -> datetime | None:
        """When the first precompute ended that began after everything was aggregated."""
        settled, fresh = self._settled, min(now, self._began) - FRESH
        if settled is None:
            return None
        ends = [run.end for run in snapshot.precomputed_since(settled) if run.end and run.end >= fresh]
        return min(ends, default=None)

    def _nudge(self, now: datetime, snapshot: Snapshot) -> str | None:
        if now - self._busy < IDLE or not snapshot.ingested:
            return None
        self._busy = now
        return PRECOMPUTE if snapshot.aggregated and snapshot.settled is not None else AGGREGATE


def _suspect(snapshot: Snapshot) -> TaskRun | None:
    """Who holds things up: a task that is tried again, else the one that has run for longest."""
    again = [task for task in snapshot.tasks if task.state == "up_for_retry"]
    running = [task for task in snapshot.tasks if task.state == "running"]
    return next(iter([*again, *reversed(running)]), None)
