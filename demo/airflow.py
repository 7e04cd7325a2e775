"""Airflow as its users see it: the REST API of the local stack, for watching runs and reading the logs of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx

from include.errors import PermanentError, TransientError

_PAGE = 100
#: Every state of a task that says something about what goes on now; those that ended well are only counted.
_TELLING = ("running", "queued", "scheduled", "up_for_retry", "up_for_reschedule", "deferred", "restarting", "failed")


@dataclass(frozen=True)
class DagRun:
    """One run of a DAG. ``state`` is queued, running, success or failed."""

    dag_id: str
    run_id: str
    state: str
    start: datetime | None
    end: datetime | None


@dataclass(frozen=True)
class TaskRun:
    """One task of one run, in its current try."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    state: str
    start: datetime | None
    end: datetime | None

    @property
    def name(self) -> str:
        index = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return f"{self.dag_id}.{self.task_id}{index}"


class Airflow:
    """Raises ``TransientError`` while the API gives no answer within ``seconds``. Close it when done."""

    def __init__(
        self, url: str, user: str, password: str, transport: httpx.BaseTransport | None = None, seconds: float = 20
    ) -> None:
        # trust_env off: a proxy in the environment must not get at a server of this machine.
        self._client = httpx.Client(base_url=url, timeout=seconds, trust_env=False, transport=transport)
        self._login = {"username": user, "password": password}
        self._token = ""

    @classmethod
    def of(cls, environment: Mapping[str, str], seconds: float = 20) -> Airflow:
        """The one that a stack's ``environment()`` tells of."""
        login = environment["MILLRACE_AIRFLOW_USER"], environment["MILLRACE_AIRFLOW_PASSWORD"]
        return cls(environment["MILLRACE_AIRFLOW_URL"], *login, seconds=seconds)

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def runs(self) -> list[DagRun]:
        """The latest runs of all DAGs, those that have not started yet first."""
        body = {"order_by": "-start_date", "page_limit": _PAGE}
        answer = self.ask("POST", "/api/v2/dags/~/dagRuns/list", json=body)
        return [
            DagRun(row["dag_id"], row["dag_run_id"], row["state"], _moment(row["start_date"]), _moment(row["end_date"]))
            for row in answer["dag_runs"]
        ]

    def tasks(self) -> list[TaskRun]:
        """The tasks that wait, run, are to be tried again, or failed for good; the latest of each first."""
        return self._tasks({"state": list(_TELLING), "order_by": "-start_date", "page_limit": _PAGE})[0]

    def succeeded(self) -> int:
        """How many tasks ended well so far."""
        return self._tasks({"state": ["success"], "page_limit": 1})[1]

    def last_success(self, dag_id: str) -> datetime | None:
        """When a task of this DAG last ended well."""
        body = {"dag_ids": [dag_id], "state": ["success"], "order_by": "-end_date", "page_limit": 1}
        tasks = self._tasks(body)[0]
        return tasks[0].end if tasks else None

    def log(self, task: TaskRun, lines: int) -> list[str]:
        """The last lines of this try's log."""
        path = f"/api/v2/dags/{_q(task.dag_id)}/dagRuns/{_q(task.run_id)}/taskInstances/{_q(task.task_id)}"
        parameters = {"map_index": task.map_index, "full_content": True}
        answer = self.ask("GET", f"{path}/logs/{task.try_number}", params=parameters)
        return [text for entry in answer["content"] for text in _log_lines(entry)][-lines:]

    def trigger(self, dag_id: str) -> None:
        """Start a run of this DAG by hand."""
        self.ask("POST", f"/api/v2/dags/{_q(dag_id)}/dagRuns", json={"logical_date": None})

    def ask(self, method: str, path: str, **arguments: Any) -> Any:
        """The JSON of one answer. Raises ``PermanentError`` with its text when the API refuses."""
        try:
            answer = self._send(method, path, **arguments)
            if answer.status_code == httpx.codes.UNAUTHORIZED:
                self._token = ""
                answer = self._send(method, path, **arguments)
        except httpx.HTTPError as exc:
            raise TransientError(f"Airflow's API at {self._client.base_url} does not answer: {exc}") from exc
        if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise TransientError(f"Airflow's API answers {answer.status_code} to {path}")
        if answer.is_error:
            raise PermanentError(f"Airflow's API refuses {method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json()

    def _tasks(self, body: Mapping[str, object]) -> tuple[list[TaskRun], int]:
        answer = self.ask("POST", "/api/v2/dags/~/dagRuns/~/taskInstances/list", json=body)
        return [_task(row) for row in answer["task_instances"]], int(answer["total_entries"])

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        if not self._token:
            answer = self._client.post("/auth/token", json=self._login)
            if answer.is_error:
                raise TransientError(f"Airflow's API gives no token: {answer.status_code} {answer.text[:200]}")
            self._token = str(answer.json()["access_token"])
        headers = {"Authorization": f"Bearer {self._token}"}
        return self._client.request(method, path, headers=headers, **arguments)


def _task(row: Mapping[str, Any]) -> TaskRun:
    return TaskRun(
        dag_id=row["dag_id"],
        run_id=row["dag_run_id"],
        task_id=row["task_id"],
        map_index=row["map_index"],
        try_number=row["try_number"],
        state=row["state"] or "",
        start=_moment(row["start_date"]),
        end=_moment(row["end_date"]),
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _q(part: str) -> str:
    return quote(part, safe="")


def _log_lines(entry: object) -> Sequence[str]:
    """A line of plain text, or a structured message with the exception that it may carry."""
    if not isinstance(entry, Mapping):
        return str(entry).splitlines()
    if "group::" in str(entry.get("event")):
        return ()  # it only folds the lines between in the UI
    head = " ".join(str(entry[key]) for key in ("timestamp", "level", "event") if entry.get(key))
    details = entry.get("error_detail")
    errors = [f"{error.get('exc_type')}: {error.get('exc_value')}" for error in details] if details else []
    return [*head.splitlines(), *errors]
