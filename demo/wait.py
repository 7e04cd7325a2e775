"""Take snapshots of the running stack until the watch reaches a verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from demo.airflow import AirflowClient, TaskRun
from demo.screen import Screen, format_progress
from demo.watch import AGGREGATE, STALL_TIMEOUT, Outcome, Snapshot, Verdict, Watch
from include.domain.generation import Generation
from include.errors import PermanentError, TransientError
from include.stores.postgres import Database
from include.stores.warehouse.schema import SQL
from include.stores.warehouse.stats import WarehouseStats
from stack.config import LocalConfig
from stack.server import ServerError, log_hint
from stack.supervise import Supervisor

_POLL_INTERVAL_S = 3.0
_LOG_LINES = 40
#: The supervisor's state for a server that it has given up restarting.
_GAVE_UP = "FATAL"


class NotFinishedError(PermanentError):
    """The pipeline failed or stalled. The message ends with the log of the task that is the likely cause."""


@dataclass(frozen=True)
class Progress:
    """A snapshot and the time it was taken, in seconds since 1970."""

    at: float
    snapshot: Snapshot


class Collector:
    """Takes snapshots. Every shard of ``topic`` must reach its end offset."""

    def __init__(
        self, airflow: AirflowClient, database: Database, topic: str, generation: Generation, ends: Mapping[int, int]
    ) -> None:
        self._airflow = airflow
        self._database = database
        self._stats = WarehouseStats(database)
        self._topic = topic
        self._generation = generation
        self._end_offsets = ends

    def take_snapshot(self) -> Snapshot:
        """Raises ``TransientError`` if Airflow or the warehouse does not answer."""
        # Read the ledger first, so that everything else is at least as recent.
        positions = dict(self._stats.read_positions(self._topic))
        hours, users = self._stats.count_pending()
        snapshot = Snapshot(
            end_offsets=self._end_offsets,
            positions=positions,
            batches=self._stats.read_totals(self._topic).batches,
            pending_hours=hours,
            pending_users=users,
            embedded_texts=self._count_embedded_texts(),
            successful_tasks=self._airflow.count_successful_tasks(),
            runs=self._airflow.list_runs(),
            tasks=self._airflow.list_current_tasks(),
            quiesced_at=None,
        )
        return replace(snapshot, quiesced_at=self._find_quiesced_time()) if snapshot.aggregated else snapshot

    def _count_embedded_texts(self) -> int:
        return int(self._database.query(SQL["count_texts"], {"generation": self._generation.name})[0][0])

    def _find_quiesced_time(self) -> datetime | None:
        commits = [batch.committed_at for batch in self._stats.read_last_batches(self._topic) if batch.committed_at]
        aggregated = self._airflow.find_last_success_time(AGGREGATE)
        return max([*commits, aggregated]) if commits and aggregated else None


def wait_for_lists(
    collector: Collector,
    airflow: AirflowClient,
    config: LocalConfig,
    screen: Screen,
    on_progress: Callable[[Progress], None],
) -> float:
    """Wait until everything is ingested, aggregated and recommended.

    Returns the time of the last list in seconds since 1970. ``on_progress`` gets every snapshot. Raises
    ``NotFinishedError`` with a task's log when a task is out of retries or nothing has progressed for three minutes,
    and ``ServerError`` when a server has stopped for good.
    """
    started_at = datetime.now(UTC)
    watch = Watch(started_at)
    while True:
        _check_servers(config)
        outcome = _evaluate_now(collector, watch, screen, started_at, on_progress)
        if outcome.verdict is Verdict.DONE and outcome.last_list is not None:
            screen.end_progress()
            return outcome.last_list.timestamp()
        if outcome.verdict is not Verdict.WAITING:
            raise NotFinishedError(_describe_failure(outcome, airflow))
        if outcome.dag_to_trigger is not None:
            screen.print(f"{outcome.dag_to_trigger} has not started by itself: triggering a run")
            airflow.trigger_run(outcome.dag_to_trigger)
        time.sleep(_POLL_INTERVAL_S)


def _evaluate_now(
    collector: Collector, watch: Watch, screen: Screen, started_at: datetime, on_progress: Callable[[Progress], None]
) -> Outcome:
    now = datetime.now(UTC)
    try:
        snapshot = collector.take_snapshot()
    except TransientError as error:
        screen.progress(f"waiting for a server to recover: {error}")
        return watch.evaluate_without_snapshot(now)
    on_progress(Progress(now.timestamp(), snapshot))
    screen.progress(format_progress(snapshot, (now - started_at).total_seconds()))
    return watch.evaluate(now, snapshot)


def _check_servers(config: LocalConfig) -> None:
    try:
        states = Supervisor(config).states()
    except OSError:
        return
    if not states:
        raise ServerError(f"the supervisor has stopped. {log_hint(config.log('supervisord'))}")
    for state in states.values():
        if state.state == _GAVE_UP:
            raise ServerError(
                f"{state.name} keeps failing and will not be restarted: check its log, then run the demo again. "
                f"{log_hint(config.log(state.name))}"
            )


def _describe_failure(outcome: Outcome, airflow: AirflowClient) -> str:
    task = outcome.task
    if outcome.verdict is Verdict.FAILED and task is not None:
        return f"task {task.name} is out of retries. {_describe_log(task, airflow)}"
    stalled = f"no progress for {STALL_TIMEOUT.total_seconds() / 60:.0f} minutes"
    if task is None:
        return f"{stalled} and no task is running: check the logs of Airflow's scheduler and triggerer"
    return f"{stalled}; task {task.name} is {task.state.replace('_', ' ')}. {_describe_log(task, airflow)}"


def _describe_log(task: TaskRun, airflow: AirflowClient) -> str:
    try:
        lines = airflow.read_log(task, _LOG_LINES)
    except (TransientError, PermanentError) as error:
        return f"Its log cannot be read: {error}"
    return "The end of its log:\n" + "\n".join(f"    {line[:300]}" for line in lines)
