"""The client of the OpenAI embeddings protocol against a server whose responses each test defines."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from include.embedders.openai import MAX_TEXTS_PER_REQUEST, OpenAIEmbedder
from include.errors import PermanentError, TransientError
from include.settings import EmbedSettings
from tests.canary import ODD, LeakCheck

DIMENSION = 3
type Response = tuple[int, bytes]


def vector(text: str) -> list[float]:
    """A vector that depends on the text and is not of length one."""
    return [1.0 + len(text), float(sum(map(ord, text)) % 97), 2.0]


def answer(request: dict[str, Any], *, as_list: bool = False) -> Response:
    """The response of a healthy server, its rows in reverse order."""
    rows = []
    for index, text in enumerate(request["input"]):
        packed = base64.b64encode(np.array(vector(text), dtype="<f4").tobytes()).decode()
        rows.append({"index": index, "embedding": vector(text) if as_list else packed})
    return 200, json.dumps({"data": rows[::-1]}).encode()


def answer_with(*vectors: object) -> Response:
    """A response with these vectors, whatever the request."""
    rows = [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return 200, json.dumps({"data": rows}).encode()


@dataclass
class Server:
    """Responds with ``respond`` and records the requests."""

    url: str
    respond: Callable[[dict[str, Any]], Response] = answer
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on loopback, for one test."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.requests.append(request)
            state.keys.add(self.headers["Authorization"])
            status, body = state.respond(request)
            if status == 0:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep the test output clean."""

    http_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Server(f"http://127.0.0.1:{http_server.server_port}/v1")
    thread = threading.Thread(target=http_server.serve_forever, args=(0.01,))
    thread.start()
    yield state
    http_server.shutdown()
    thread.join()
    http_server.server_close()


@pytest.fixture
def embedder(server: Server) -> Iterator[OpenAIEmbedder]:
    """A client of the server."""
    embedder = OpenAIEmbedder(EmbedSettings(server.url, api_key="k3y", model="m", revision="1", dimension=DIMENSION))
    yield embedder
    embedder.close()


@pytest.mark.parametrize("as_list", [False, True])
def test_vectors_are_normalised_and_in_order(server: Server, embedder: OpenAIEmbedder, as_list: bool) -> None:
    """The encoding and the order of the response make no difference."""
    server.respond = lambda request: answer(request, as_list=as_list)
    texts = ["long text", "", "b", "日本語", "b"]
    expected = np.array([vector(text) for text in texts])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    vectors = embedder.embed(texts)
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, expected, atol=1e-6)
    assert server.keys == {"Bearer k3y"}
    assert server.requests[0]["model"] == "m"


def test_no_texts_make_no_request(server: Server, embedder: OpenAIEmbedder) -> None:
    """An empty list is answered without the server."""
    assert embedder.embed([]).shape == (0, DIMENSION)
    assert server.requests == []


def test_long_texts_are_cut_where_the_server_needs_it(server: Server) -> None:
    """A server that refuses long texts gets the first characters of each; without the setting the error names it."""

    def respond(request: dict[str, Any]) -> Response:
        return answer(request) if max(map(len, request["input"])) <= 10 else (400, b"{}")

    server.respond = respond
    settings = EmbedSettings(server.url, dimension=DIMENSION)
    texts = ["short", "x" * 11]
    with closing(OpenAIEmbedder(settings)) as embedder, pytest.raises(PermanentError, match="MAX_CHARACTERS"):
        embedder.embed(texts)
    with closing(OpenAIEmbedder(replace(settings, max_characters=10))) as embedder:
        vectors = embedder.embed(texts)
    assert np.allclose(vectors, [_unit_vector("short"), _unit_vector("x" * 10)], atol=1e-6)


def test_requests_are_bounded(server: Server, embedder: OpenAIEmbedder) -> None:
    """Many texts take several requests, each of texts of similar length; long texts are fewer per request."""
    texts = [f"{number} " + "x" * (number % 50) for number in range(3 * MAX_TEXTS_PER_REQUEST + 1)]
    assert np.allclose(embedder.embed(texts), [_unit_vector(text) for text in texts], atol=1e-6)
    assert sorted(len(request["input"]) for request in server.requests) == [1, *[MAX_TEXTS_PER_REQUEST] * 3]
    server.requests.clear()
    embedder.embed(["y" * 150_000, "z" * 150_000, "short"])
    assert len(server.requests) == 2


def _unit_vector(text: str) -> np.ndarray:
    row = np.array(vector(text))
    return np.asarray(row / np.linalg.norm(row))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 0])
def test_outages_are_transient(server: Server, embedder: OpenAIEmbedder, status: int) -> None:
    """A busy or failing server and a lost connection are transient errors; the client does not retry by itself."""
    server.respond = lambda _: (status, b'{"error": {"message": "a text", "type": "overloaded", "code": "try_later"}}')
    with pytest.raises(TransientError, match=f"{status} overloaded try_later" if status else "RemoteProtocolError"):
        embedder.embed(["a"])
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "setting"),
    [(401, "MILLRACE_EMBED_API_KEY"), (403, "MILLRACE_EMBED_API_KEY"), (404, "MILLRACE_EMBED_URL"), (400, "refused")],
)
def test_permanent_errors_name_the_setting(server: Server, embedder: OpenAIEmbedder, status: int, setting: str) -> None:
    """A refusal that no retry will change names the setting to check, and never contains the key."""
    server.respond = lambda _: (status, b"<html>no</html>")
    with pytest.raises(PermanentError, match=setting) as caught:
        embedder.embed(["a"])
    assert "k3y" not in str(caught.value)


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ((200, b"<html>"), "protocol"),
        ((200, b'{"data": [{"index": 0}]}'), "protocol"),
        (answer_with(), "0 vectors for 1 texts"),
        (answer_with([1, 2, 3], [1, 2, 3]), "2 vectors for 1 texts"),
        (answer_with([1, 2]), r"set to 3 \(MILLRACE_EMBED_DIMENSION"),
        (answer_with([1, 2, 3, 4]), r"set to 3 \(MILLRACE_EMBED_DIMENSION"),
        (answer_with([0, 0, 0]), "zero or has nan"),
        (answer_with(base64.b64encode(np.array([1, np.nan, 1], dtype="<f4").tobytes()).decode()), "zero or has nan"),
        (answer_with("AAA"), "base64"),
        (answer_with("!!!!"), "base64"),
    ],
)
def test_an_invalid_response_is_a_permanent_error(
    server: Server, embedder: OpenAIEmbedder, response: Response, message: str
) -> None:
    """The count, the dimension and the numbers are checked, so that invalid vectors are never stored."""
    server.respond = lambda _: response
    with pytest.raises(PermanentError, match=message):
        embedder.embed(["a"])


@pytest.mark.parametrize("status", [0, 200, 301, 400, 413, 422, 429, 500])
@pytest.mark.parametrize(
    "quote",
    [
        lambda text: text.encode(),
        lambda text: json.dumps({"detail": text}).encode(),
        lambda text: json.dumps({"error": {"message": text, "type": text, "code": text, "param": text}}).encode(),
        lambda text: json.dumps({"error": text}).encode(),
        lambda text: json.dumps({"data": [{"index": 0, "embedding": text}]}).encode(),
        lambda text: json.dumps({"data": [{"index": text, "embedding": [1, 2, 3]}]}).encode(),
        lambda text: text.encode("utf-16"),
    ],
    ids=["text", "detail", "error", "error text", "vector", "index", "another encoding"],
)
def test_no_error_quotes_the_response(
    server: Server,
    embedder: OpenAIEmbedder,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    quote: Callable[[str], bytes],
    status: int,
) -> None:
    """A server may quote the texts in any part of its response; no error and no log passes them on."""
    server.respond = lambda request: (status, quote(request["input"][0]))
    check = LeakCheck(caplog, capfd)
    check.fails((PermanentError, TransientError), "embedding server", lambda: embedder.embed([ODD]), quoted=None)


def test_one_failed_request_fails_the_whole_call(server: Server, embedder: OpenAIEmbedder) -> None:
    """``embed`` returns every vector or none."""
    server.respond = lambda request: (503, b"") if "bad" in request["input"] else answer(request)
    with pytest.raises(TransientError):
        embedder.embed(["bad", *(f"text {number}" for number in range(5 * MAX_TEXTS_PER_REQUEST))])


def test_a_refused_connection_is_transient() -> None:
    """A server that is not running may be started later."""
    embedder = OpenAIEmbedder(EmbedSettings("http://127.0.0.1:9/v1"))
    with pytest.raises(TransientError, match="is not responding"):
        embedder.embed(["a"])
    embedder.close()


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/v1", "127.0.0.1:80/v1", "http://[bad/v1", "http://host:port/v1"])
def test_an_invalid_url_names_its_setting(url: str) -> None:
    """A mistyped address is a permanent error, which is not retried."""
    with pytest.raises(PermanentError, match="MILLRACE_EMBED_URL"):
        OpenAIEmbedder(EmbedSettings(url)).embed(["a"])
