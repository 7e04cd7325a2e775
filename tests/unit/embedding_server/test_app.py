"""The embedding server's protocol: what it answers and what it refuses, in OpenAI's shape."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from include.embedding_server import wire
from include.embedding_server.app import App
from include.embedding_server.settings import ServerSettings
from tests.unit.embedding_server.fake_engine import FakeEngine

MODEL = "all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[bytes, bytes]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]


def ask(app: App, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
    """Call the application as a server does, the body in two parts."""
    sent: list[dict[str, Any]] = []
    half = len(body) // 2
    parts = [{"body": body[:half], "more_body": True}, {"body": body[half:], "more_body": False}]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", **parts.pop(0)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(app({"type": "http", "method": method, "path": path, "headers": raw}, receive, send))
    return Answer(sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"])


def embed(app: App, content: object = None, **headers: str) -> Answer:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return ask(app, "POST", "/v1/embeddings", body, **headers)


@pytest.fixture
def app() -> Iterator[App]:
    """The server with a model of four dimensions and no key."""
    made = App(ServerSettings())
    made.ready(FakeEngine(failing="!"))
    yield made
    made.close()


def test_embeddings_as_floats(app: App) -> None:
    """The default answer: a list of numbers a text, in the order of the texts, and the tokens used."""
    answer = embed(app, {"model": MODEL, "input": ["aa", "b", "aa"], "user": "someone"})
    assert answer.status == 200
    assert [row["index"] for row in answer.json["data"]] == [0, 1, 2]
    assert [row["embedding"][0] for row in answer.json["data"]] == [2, 1, 2]
    assert answer.json["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert answer.json["model"] == MODEL


def test_embeddings_as_base64(app: App) -> None:
    """On demand a vector is base64 of little-endian float32, and a single string is one text."""
    answer = embed(app, {"model": MODEL, "input": "abc", "encoding_format": "base64"})
    vector = np.frombuffer(base64.b64decode(answer.json["data"][0]["embedding"]), "<f4")
    assert vector.tolist() == [3, sum(map(ord, "abc")), 0, 1]


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (b"{", 400, "JSON"),
        (b'{"model": "\xff"}', 400, "valid"),
        (b'{"model": "m", "input": "\\ud800"}', 400, "JSON"),
        ({"model": MODEL}, 400, "input"),
        ({"input": "a"}, 400, "model"),
        ({"model": MODEL, "input": []}, 400, "1 to 2048"),
        ({"model": MODEL, "input": ["a"] * 2049}, 400, "1 to 2048"),
        ({"model": MODEL, "input": [1, 2]}, 400, "string"),
        ({"model": MODEL, "input": None}, 400, "string"),
        ({"model": MODEL, "input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
        ({"model": MODEL, "input": "a", "dimensions": 3}, 400, "dimensions"),
        ({"model": "other", "input": "a"}, 404, "other"),
    ],
)
def test_bad_requests_are_told_why(app: App, content: object, status: int, says: str) -> None:
    """A wrong request gets a 4xx in OpenAI's shape that names what is wrong."""
    answer = embed(app, content)
    assert answer.status == status
    assert answer.error["type"] == "invalid_request_error"
    assert says in answer.error["message"]


def test_a_body_too_large_is_refused(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what its length says before it is read, and by its parts where no length is given."""
    monkeypatch.setattr(wire, "MAX_BODY", 100)
    body = {"model": MODEL, "input": "a" * 100}
    assert embed(app, body).status == 413
    assert embed(app, b"", **{"content-length": "101"}).status == 413


def test_before_the_model_is_loaded() -> None:
    """While it loads the server says so, with 503 and when to come again."""
    loading = App(ServerSettings())
    for answer in (ask(loading, "GET", "/health"), embed(loading, {"model": MODEL, "input": "a"})):
        assert answer.status == 503
        assert answer.headers[b"retry-after"] == b"2"
        assert answer.error["code"] == "loading"


def test_a_failing_model_is_a_500_without_secrets(app: App) -> None:
    """The cause stands in the log; the client learns only that it was not its fault. The server goes on."""
    answer = embed(app, {"model": MODEL, "input": "a secret!"})
    assert answer.status == 500
    assert answer.error["type"] == "server_error"
    assert b"secret" not in answer.body
    assert embed(app, {"model": MODEL, "input": "fine"}).status == 200


def test_the_key_is_asked_for() -> None:
    """With a key set, only /health is open."""
    keyed = App(ServerSettings(api_key="right"))
    keyed.ready(FakeEngine())
    request = {"model": MODEL, "input": "a"}
    try:
        assert embed(keyed, request).status == 401
        assert embed(keyed, request, authorization="Bearer wrong").status == 401
        assert ask(keyed, "GET", "/v1/models").error["code"] == "invalid_api_key"
        assert embed(keyed, request, authorization="Bearer right").status == 200
        assert ask(keyed, "GET", "/health").status == 200
    finally:
        keyed.close()


def test_other_routes_and_methods(app: App) -> None:
    """What is not there is a 404, another method a 405, HEAD has no body."""
    assert ask(app, "GET", "/v1/models").json["data"][0]["id"] == MODEL
    assert ask(app, "HEAD", "/health").body == b""
    assert ask(app, "GET", "/v1/other").status == 404
    assert ask(app, "DELETE", "/v1/models").status == 405
    assert ask(app, "GET", "/v1/embeddings").error["code"] == "method_not_allowed"
