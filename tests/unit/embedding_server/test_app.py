"""The embedding server's HTTP protocol: its responses and errors have OpenAI's format."""

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
from tests.canary import CANARY
from tests.unit.embedding_server.fake_engine import FakeEngine

MODEL = "all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[bytes, bytes]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]


def call(app: App, method: str, path: str, body: bytes = b"", **headers: str) -> Response:
    """Call the application like an ASGI server that receives the body in two parts."""
    sent: list[dict[str, Any]] = []
    half = len(body) // 2
    parts = [{"body": body[:half], "more_body": True}, {"body": body[half:], "more_body": False}]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", **parts.pop(0)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(app({"type": "http", "method": method, "path": path, "headers": raw}, receive, send))
    return Response(sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"])


def embed(app: App, content: object = None, **headers: str) -> Response:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return call(app, "POST", "/v1/embeddings", body, **headers)


@pytest.fixture
def app() -> Iterator[App]:
    """The server with a four-dimensional model and no API key."""
    app = App(ServerSettings())
    app.start(FakeEngine(failing="!"))
    yield app
    app.close()


def test_embeddings_are_lists_of_floats_by_default(app: App) -> None:
    """The default response has one list of numbers per text, in order, and the number of tokens used."""
    response = embed(app, {"model": MODEL, "input": ["aa", "b", "aa"], "user": "someone"})
    assert response.status == 200
    assert [row["index"] for row in response.json["data"]] == [0, 1, 2]
    assert [row["embedding"][0] for row in response.json["data"]] == [2, 1, 2]
    assert response.json["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert response.json["model"] == MODEL


def test_embeddings_can_be_base64(app: App) -> None:
    """On request a vector is base64 of little-endian float32; a single string is one text."""
    response = embed(app, {"model": MODEL, "input": "abc", "encoding_format": "base64"})
    vector = np.frombuffer(base64.b64decode(response.json["data"][0]["embedding"]), "<f4")
    assert vector.tolist() == [3, sum(map(ord, "abc")), 0, 1]


@pytest.mark.parametrize(
    ("content", "status", "message"),
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
        ({"model": "other", "input": "a"}, 404, MODEL),
        (f'{{"model": "{MODEL}", "input": "{CANARY}'.encode(), 400, "JSON"),
        ({"model": CANARY, "input": "a"}, 404, MODEL),
        ({"model": MODEL, "input": {CANARY: CANARY}}, 400, "input"),
        ({"model": MODEL, "input": [CANARY, 1]}, 400, "string"),
        ({"model": MODEL, "input": "a", "encoding_format": CANARY}, 400, "encoding_format"),
        ({"model": MODEL, "input": "a", "dimensions": CANARY}, 400, "dimensions"),
    ],
)
def test_invalid_requests_get_an_explanation(app: App, content: object, status: int, message: str) -> None:
    """An invalid request gets a 4xx in OpenAI's format that names the mistake, and quotes nothing."""
    response = embed(app, content)
    assert response.status == status
    assert response.error["type"] == "invalid_request_error"
    assert message in response.error["message"]
    assert CANARY.encode() not in response.body


def test_oversized_bodies_are_refused(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Content-Length is checked before reading, and the bytes are counted while reading."""
    monkeypatch.setattr(wire, "MAX_BODY", 100)
    body = {"model": MODEL, "input": "a" * 100}
    assert embed(app, body).status == 413
    assert embed(app, b"", **{"content-length": "101"}).status == 413


def test_requests_get_503_until_the_model_is_loaded() -> None:
    """While the model loads, the server answers 503 with Retry-After."""
    loading = App(ServerSettings())
    for response in (call(loading, "GET", "/health"), embed(loading, {"model": MODEL, "input": "a"})):
        assert response.status == 503
        assert response.headers[b"retry-after"] == b"2"
        assert response.error["code"] == "loading"


def test_a_model_failure_is_a_500_that_reveals_nothing(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """The cause goes to the log only, without the text; the client gets a generic error; the server keeps serving."""
    response = embed(app, {"model": MODEL, "input": f"{CANARY}!"})
    assert response.status == 500
    assert response.error["type"] == "server_error"
    assert CANARY.encode() not in response.body
    assert "RuntimeError in FakeEngine.embed" in caplog.text
    assert CANARY not in caplog.text
    assert embed(app, {"model": MODEL, "input": "fine"}).status == 200


def test_the_api_key_is_required() -> None:
    """If a key is set, only /health works without it."""
    keyed = App(ServerSettings(api_key="right"))
    keyed.start(FakeEngine())
    request = {"model": MODEL, "input": "a"}
    try:
        assert embed(keyed, request).status == 401
        assert embed(keyed, request, authorization="Bearer wrong").status == 401
        assert call(keyed, "GET", "/v1/models").error["code"] == "invalid_api_key"
        assert embed(keyed, request, authorization="Bearer right").status == 200
        assert call(keyed, "GET", "/health").status == 200
    finally:
        keyed.close()


def test_other_routes_and_methods(app: App) -> None:
    """An unknown path is a 404 and an unsupported method a 405; a HEAD response has no body."""
    assert call(app, "GET", "/v1/models").json["data"][0]["id"] == MODEL
    assert call(app, "HEAD", "/health").body == b""
    assert call(app, "GET", "/v1/other").status == 404
    assert call(app, "DELETE", "/v1/models").status == 405
    assert call(app, "GET", "/v1/embeddings").error["code"] == "method_not_allowed"
