"""A client for the parts of Airflow's REST API that the demo needs: runs, tasks, task logs and manual runs.

Why not the generated ``apache-airflow-client``: docs/adr/0015-airflow-rest-client.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx

from include.errors import PermanentError, TransientError

_PAGE_SIZE = 100
#: Task states that explain what is going on now. Successful tasks are only counted.
_CURRENT_STATES = (
    "running",
    "queued",
    "scheduled",
    "up_for_retry",
    "up_for_reschedule",
    "deferred",
    "restarting",
    "failed",
)


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
    """The current try of one task instance."""

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


class AirflowClient:
    """Raises ``TransientError`` if the API does not answer within ``timeout_s``. Close it when done."""

    def __init__(
        self, url: str, user: str, password: str, transport: httpx.BaseTransport | None = None, timeout_s: float = 20
    ) -> None:
        # trust_env=False: a proxy set in the environment must not intercept requests to this machine.
        self._client = httpx.Client(base_url=url, timeout=timeout_s, trust_env=False, transport=transport)
        self._login = {"username": user, "password": password}
        self._token = ""

    @classmethod
    def for_stack(cls, environment: Mapping[str, str], timeout_s: float = 20) -> AirflowClient:
        """Connect to the Airflow described by a stack's ``environment()``."""
        login = environment["MILLRACE_AIRFLOW_USER"], environment["MILLRACE_AIRFLOW_PASSWORD"]
        return cls(environment["MILLRACE_AIRFLOW_URL"], *login, timeout_s=timeout_s)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def list_runs(self) -> list[DagRun]:
        """Returns the latest runs of all DAGs, runs that have not started yet first."""
        body = {"order_by": "-start_date", "page_limit": _PAGE_SIZE}
        response = self.request("POST", "/api/v2/dags/~/dagRuns/list", json=body)
        return [_parse_run(row) for row in response["dag_runs"]]

    def list_current_tasks(self) -> list[TaskRun]:
        """Returns the tasks that are waiting, running, up for retry or failed, latest start first."""
        body = {"state": list(_CURRENT_STATES), "order_by": "-start_date", "page_limit": _PAGE_SIZE}
        return self._query_tasks(body)[0]

    def count_successful_tasks(self) -> int:
        """Returns the number of tasks that have succeeded so far."""
        return self._query_tasks({"state": ["success"], "page_limit": 1})[1]

    def find_last_success_time(self, dag_id: str) -> datetime | None:
        """Returns when a task of this DAG last succeeded, or None if none has."""
        body = {"dag_ids": [dag_id], "state": ["success"], "order_by": "-end_date", "page_limit": 1}
        tasks = self._query_tasks(body)[0]
        return tasks[0].end if tasks else None

    def read_log(self, task: TaskRun, lines: int) -> list[str]:
        """Returns the last ``lines`` lines of the log of this try."""
        path = (
            f"/api/v2/dags/{_quote(task.dag_id)}/dagRuns/{_quote(task.run_id)}"
            f"/taskInstances/{_quote(task.task_id)}/logs/{task.try_number}"
        )
        parameters = {"map_index": task.map_index, "full_content": True}
        response = self.request("GET", path, params=parameters)
        return [text for entry in response["content"] for text in _format_log_entry(entry)][-lines:]

    def trigger_run(self, dag_id: str) -> None:
        """Start a manual run of this DAG."""
        self.request("POST", f"/api/v2/dags/{_quote(dag_id)}/dagRuns", json={"logical_date": None})

    def request(self, method: str, path: str, **arguments: Any) -> Any:
        """Returns the decoded JSON response. Raises ``PermanentError`` with the response text on a 4xx status."""
        try:
            response = self._send(method, path, **arguments)
            if response.status_code == httpx.codes.UNAUTHORIZED:
                self._token = ""
                response = self._send(method, path, **arguments)
        except httpx.HTTPError as exc:
            raise TransientError(f"no response from Airflow's API at {self._client.base_url}: {exc}") from exc
        if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise TransientError(f"Airflow's API returned {response.status_code} for {method} {path}")
        if response.is_error:
            raise PermanentError(
                f"Airflow's API rejected {method} {path}: {response.status_code} {response.text[:500]}"
            )
        return response.json()

    def _query_tasks(self, body: Mapping[str, object]) -> tuple[list[TaskRun], int]:
        """Returns one page of matching tasks and the total number of matches."""
        response = self.request("POST", "/api/v2/dags/~/dagRuns/~/taskInstances/list", json=body)
        return [_parse_task(row) for row in response["task_instances"]], int(response["total_entries"])

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        if not self._token:
            response = self._client.post("/auth/token", json=self._login)
            if response.is_error:
                raise TransientError(f"cannot log in to Airflow's API: {response.status_code} {response.text[:200]}")
            self._token = str(response.json()["access_token"])
        headers = {"Authorization": f"Bearer {self._token}"}
        return self._client.request(method, path, headers=headers, **arguments)


def _parse_run(row: Mapping[str, Any]) -> DagRun:
    return DagRun(
        dag_id=row["dag_id"],
        run_id=row["dag_run_id"],
        state=row["state"],
        start=_parse_time(row["start_date"]),
        end=_parse_time(row["end_date"]),
    )


def _parse_task(row: Mapping[str, Any]) -> TaskRun:
    return TaskRun(
        dag_id=row["dag_id"],
        run_id=row["dag_run_id"],
        task_id=row["task_id"],
        map_index=row["map_index"],
        try_number=row["try_number"],
        state=row["state"] or "",
        start=_parse_time(row["start_date"]),
        end=_parse_time(row["end_date"]),
    )


def _parse_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _quote(part: str) -> str:
    return quote(part, safe="")


def _format_log_entry(entry: object) -> Sequence[str]:
    """Format a plain line, or a structured entry with any exceptions attached to it."""
    if not isinstance(entry, Mapping):
        return str(entry).splitlines()
    if "group::" in str(entry.get("event")):
        return ()  # a marker that only folds lines in the UI
    message = " ".join(str(entry[key]) for key in ("timestamp", "level", "event") if entry.get(key))
    details = entry.get("error_detail")
    errors = [f"{error.get('exc_type')}: {error.get('exc_value')}" for error in details] if details else []
    return [*message.splitlines(), *errors]
