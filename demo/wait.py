"""Taking snapshots of the running stack until the watch has its verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from demo.airflow import Airflow, TaskRun
from demo.screen import Screen, waiting_line
from demo.watch import AGGREGATE, PATIENCE, Outcome, Snapshot, Verdict, Watch
from include.domain.generation import Generation
from include.errors import PermanentError, TransientError
from include.stores.postgres import Database
from include.stores.warehouse.inventory import Inventory
from include.stores.warehouse.schema import SQL
from stack.config import LocalConfig
from stack.server import ServerError, log_hint
from stack.supervise import Supervisor

_EVERY = 3.0
_LOG_LINES = 40
#: What the supervisor calls a server that it has given up starting again.
_GIVEN_UP = "FATAL"


class NotFinishedError(PermanentError):
    """The work did not come to its end. The message ends with the log of the task that is to blame."""


@dataclass(frozen=True)
class Progress:
    """A snapshot and when it was taken, for whoever writes down when each stage ended."""

    at: float
    snapshot: Snapshot


class Collector:
    """Takes snapshots. ``ends`` is where each shard of ``topic`` must get to."""

    def __init__(
        self, airflow: Airflow, database: Database, topic: str, generation: Generation, ends: Mapping[int, int]
    ) -> None:
        self._airflow = airflow
        self._database = database
        self._inventory = Inventory(database)
        self._topic = topic
        self._generation = generation
        self._ends = ends

    def snapshot(self) -> Snapshot:
        """Raises ``TransientError`` when Airflow or the warehouse does not answer."""
        # The ledger first: what is read after it can only be newer.
        positions = dict(self._inventory.positions(self._topic))
        hours, users = self._inventory.pending()
        taken = Snapshot(
            ends=self._ends,
            positions=positions,
            batches=self._inventory.totals(self._topic).batches,
            hours=hours,
            users=users,
            texts=int(self._database.rows(SQL["count_texts"], {"generation": self._generation.name})[0][0]),
            succeeded=self._airflow.succeeded(),
            runs=self._airflow.runs(),
            tasks=self._airflow.tasks(),
            settled=None,
        )
        return Snapshot(**{**taken.__dict__, "settled": self._settled()}) if taken.aggregated else taken

    def _settled(self) -> datetime | None:
        commits = [batch.committed_at for batch in self._inventory.last_batches(self._topic) if batch.committed_at]
        aggregated = self._airflow.last_success(AGGREGATE)
        return max([*commits, aggregated]) if commits and aggregated else None


def wait_for_lists(
    collector: Collector, airflow: Airflow, config: LocalConfig, screen: Screen, note: Callable[[Progress], None]
) -> float:
    """Return when all is ingested, aggregated and recommended: the time of the last list, in seconds since 1970.

    ``note`` gets every snapshot. Raises ``NotFinishedError`` with a task's log when a task is out of retries or
    nothing has moved for three minutes, and ``ServerError`` when a server has been given up.
    """
    began = datetime.now(UTC)
    watch = Watch(began)
    while True:
        _check_servers(config)
        outcome = _look(collector, watch, screen, began, note)
        if outcome.verdict is Verdict.DONE and outcome.last_list is not None:
            screen.done()
            return outcome.last_list.timestamp()
        if outcome.verdict is not Verdict.WAITING:
            raise NotFinishedError(_blame(outcome, airflow))
        if outcome.nudge is not None:
            screen.say(f"nothing woke {outcome.nudge}: asking Airflow for a run of it")
            airflow.trigger(outcome.nudge)
        time.sleep(_EVERY)


def _look(
    collector: Collector, watch: Watch, screen: Screen, began: datetime, note: Callable[[Progress], None]
) -> Outcome:
    now = datetime.now(UTC)
    try:
        snapshot = collector.snapshot()
    except TransientError as error:
        screen.progress(f"waiting for a server to come back: {error}")
        return watch.blind(now)
    note(Progress(now.timestamp(), snapshot))
    screen.progress(waiting_line(snapshot, (now - began).total_seconds()))
    return watch.see(now, snapshot)


def _check_servers(config: LocalConfig) -> None:
    try:
        states = Supervisor(config).states()
    except OSError:
        return
    if not states:
        raise ServerError(f"the supervisor of the servers has ended. {log_hint(config.log('supervisord'))}")
    for state in states.values():
        if state.state == _GIVEN_UP:
            raise ServerError(
                f"{state.name} has ended for good: see its log, then start again. {log_hint(config.log(state.name))}"
            )


def _blame(outcome: Outcome, airflow: Airflow) -> str:
    task = outcome.task
    if outcome.verdict is Verdict.FAILED and task is not None:
        return f"task {task.name} is out of retries. {_log(task, airflow)}"
    stalled = f"nothing has moved for {PATIENCE.total_seconds() / 60:.0f} minutes"
    if task is None:
        return f"{stalled} and no task runs: see the logs of Airflow's scheduler and triggerer"
    return f"{stalled}; task {task.name} is {task.state.replace('_', ' ')}. {_log(task, airflow)}"


def _log(task: TaskRun, airflow: Airflow) -> str:
    try:
        lines = airflow.log(task, _LOG_LINES)
    except (TransientError, PermanentError) as error:
        return f"Its log cannot be read: {error}"
    return "Its log ends:\n" + "\n".join(f"    {line[:300]}" for line in lines)
