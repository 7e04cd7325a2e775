"""The client of Airflow's REST API, on answers as Airflow gives them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import pytest

from demo.airflow import Airflow, DagRun, TaskRun
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
    """Answers by path; remembers what was asked."""

    def __init__(self, **answers: object) -> None:
        self.answers = answers
        self.asked: list[httpx.Request] = []
        self.tokens = 0
        self.expired = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if request.url.path == "/auth/token":
            self.tokens += 1
            return httpx.Response(201, json={"access_token": f"t{self.tokens}"})
        if self.expired:
            self.expired = False
            return httpx.Response(401)
        answer = next(value for name, value in self.answers.items() if name in request.url.path)
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)


def client(handler: Callable[[httpx.Request], httpx.Response]) -> Airflow:
    return Airflow("http://airflow", "admin", "secret", httpx.MockTransport(handler))


def test_runs() -> None:
    """A run that waits has no start; times are read with their zone."""
    row = {"dag_id": "d", "dag_run_id": "r", "state": "queued", "start_date": None, "end_date": None}
    assert client(Server(dagRuns={"dag_runs": [row]})).runs() == [DagRun("d", "r", "queued", None, None)]


def test_tasks_and_counts() -> None:
    """One call lists what goes on, another counts what is done."""
    server = Server(taskInstances={"task_instances": [TASK], "total_entries": 7})
    airflow = client(server)
    assert airflow.tasks() == [FAILED]
    assert airflow.succeeded() == 7
    assert json.loads(server.asked[-1].content)["state"] == ["success"]
    assert airflow.last_success("aggregate_engagement") == FAILED.end
    assert server.tokens == 1, "one login serves all"


def test_no_success_yet() -> None:
    """A DAG without a successful task has no last one."""
    assert client(Server(taskInstances={"task_instances": [], "total_entries": 0})).last_success("d") is None


def test_log_lines() -> None:
    """The end of a task's log, with the errors that its messages carry."""
    content = [
        {"event": "::group::Log message source details", "sources": ["x"]},
        {"timestamp": "12:00", "level": "error", "event": "Task failed\nwith two lines",
         "error_detail": [{"exc_type": "TransientError", "exc_value": "the warehouse is away"}]},
    ]  # fmt: skip
    server = Server(logs={"content": content, "continuation_token": None})
    assert client(server).log(FAILED, 3) == [
        "12:00 error Task failed",
        "with two lines",
        "TransientError: the warehouse is away",
    ]
    assert server.asked[-1].url.path.endswith("/ingest_shard_000/dagRuns/asset__1/taskInstances/embed/logs/2")


def test_run_ids_are_quoted() -> None:
    """A run id has colons and plus signs in it."""
    server = Server(logs={"content": ["one", "two"], "continuation_token": None})
    odd = TaskRun("d", "manual__2026-03-01T12:00:00+00:00", "t", 3, 1, "failed", None, None)
    assert client(server).log(odd, 9) == ["one", "two"]
    assert b"manual__2026-03-01T12%3A00%3A00%2B00%3A00" in server.asked[-1].url.raw_path
    assert server.asked[-1].url.params["map_index"] == "3"


def test_an_expired_token_is_replaced() -> None:
    """A long wait outlives its login."""
    server = Server(dagRuns={"dag_runs": []})
    airflow = client(server)
    airflow.runs()
    server.expired = True
    assert airflow.runs() == []
    assert server.tokens == 2


def test_trigger() -> None:
    """A run by hand has no logical date."""
    server = Server(dagRuns={})
    client(server).trigger("aggregate_engagement")
    assert json.loads(server.asked[-1].content) == {"logical_date": None}


def _away(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


def test_away() -> None:
    """An API that does not answer, or answers with an error of its own, may come back."""
    with pytest.raises(TransientError, match="does not answer"):
        client(_away).runs()
    with pytest.raises(TransientError, match="503"):
        client(Server(dagRuns=httpx.Response(503))).runs()


def test_refused() -> None:
    """What it refuses will not pass by itself."""
    with pytest.raises(PermanentError, match="404"):
        client(Server(dagRuns=httpx.Response(404, text="no such DAG"))).runs()
