"""The client for Airflow's REST API, tested with responses in Airflow's format."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import pytest

from demo.airflow import AirflowClient, DagRun, TaskRun
from include.errors import PermanentError, TransientError

TASK = {
    "dag_id": "ingest_shard_000", "dag_run_id": "asset__1", "task_id": "embed", "map_index": -1, "try_number": 2,
    "state": "failed", "start_date": "2026-03-01T12:00:00Z", "end_date": "2026-03-01T12:00:05.25Z",
}  # fmt: skip
FAILED = TaskRun(
    "ingest_shard_000", "asset__1", "embed", -1, 2, "failed",
    datetime(2026, 3, 1, 12, tzinfo=UTC), datetime(2026, 3, 1, 12, 0, 5, 250_000, tzinfo=UTC),
)  # fmt: skip


class Server:
    """Responds by path and records the requests."""

    def __init__(self, **responses: object) -> None:
        self.responses = responses
        self.requests: list[httpx.Request] = []
        self.logins = 0
        self.token_expired = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.url.path == "/auth/token":
            self.logins += 1
            return httpx.Response(201, json={"access_token": f"t{self.logins}"})
        if self.token_expired:
            self.token_expired = False
            return httpx.Response(401)
        response = next(value for name, value in self.responses.items() if name in request.url.path)
        return response if isinstance(response, httpx.Response) else httpx.Response(200, json=response)


def connect(handler: Callable[[httpx.Request], httpx.Response]) -> AirflowClient:
    return AirflowClient("http://airflow", "admin", "secret", httpx.MockTransport(handler))


def test_runs_are_listed() -> None:
    """A queued run has no start time."""
    row = {"dag_id": "d", "dag_run_id": "r", "state": "queued", "start_date": None, "end_date": None}
    assert connect(Server(dagRuns={"dag_runs": [row]})).list_runs() == [DagRun("d", "r", "queued", None, None)]


def test_tasks_are_listed_and_counted() -> None:
    """Current tasks are listed with time zones, successful ones are counted, and one login serves all requests."""
    server = Server(taskInstances={"task_instances": [TASK], "total_entries": 7})
    airflow = connect(server)
    assert airflow.list_current_tasks() == [FAILED]
    assert airflow.count_successful_tasks() == 7
    assert json.loads(server.requests[-1].content)["state"] == ["success"]
    assert airflow.find_last_success_time("aggregate_engagement") == FAILED.end
    assert server.logins == 1


def test_no_success_yet() -> None:
    """A DAG without a successful task has no last success time."""
    server = Server(taskInstances={"task_instances": [], "total_entries": 0})
    assert connect(server).find_last_success_time("d") is None


def test_the_end_of_a_log_is_read() -> None:
    """The last lines of a log include the exceptions attached to its entries."""
    content = [
        {"event": "::group::Log message source details", "sources": ["x"]},
        {"timestamp": "12:00", "level": "error", "event": "Task failed\nwith two lines",
         "error_detail": [{"exc_type": "TransientError", "exc_value": "the warehouse is down"}]},
    ]  # fmt: skip
    server = Server(logs={"content": content, "continuation_token": None})
    assert connect(server).read_log(FAILED, 3) == [
        "12:00 error Task failed",
        "with two lines",
        "TransientError: the warehouse is down",
    ]
    assert server.requests[-1].url.path.endswith("/ingest_shard_000/dagRuns/asset__1/taskInstances/embed/logs/2")


def test_run_ids_are_quoted() -> None:
    """Run ids contain colons and plus signs, which are escaped in the path."""
    server = Server(logs={"content": ["one", "two"], "continuation_token": None})
    task = TaskRun("d", "manual__2026-03-01T12:00:00+00:00", "t", 3, 1, "failed", None, None)
    assert connect(server).read_log(task, 9) == ["one", "two"]
    assert b"manual__2026-03-01T12%3A00%3A00%2B00%3A00" in server.requests[-1].url.raw_path
    assert server.requests[-1].url.params["map_index"] == "3"


def test_an_expired_token_is_replaced() -> None:
    """The client logs in again when its token has expired."""
    server = Server(dagRuns={"dag_runs": []})
    airflow = connect(server)
    airflow.list_runs()
    server.token_expired = True
    assert airflow.list_runs() == []
    assert server.logins == 2


def test_a_run_is_triggered() -> None:
    """A manual run has no logical date."""
    server = Server(dagRuns={})
    connect(server).trigger_run("aggregate_engagement")
    assert json.loads(server.requests[-1].content) == {"logical_date": None}


def _refuse_connection(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


def test_an_unavailable_api_is_a_transient_error() -> None:
    """A connection error or a 5xx status is transient."""
    with pytest.raises(TransientError, match="no response from Airflow"):
        connect(_refuse_connection).list_runs()
    with pytest.raises(TransientError, match="503"):
        connect(Server(dagRuns=httpx.Response(503))).list_runs()


def test_a_rejected_request_is_a_permanent_error() -> None:
    """A 4xx status is permanent, and the message contains it."""
    with pytest.raises(PermanentError, match="404"):
        connect(Server(dagRuns=httpx.Response(404, text="no such DAG"))).list_runs()
