"""The client of the OpenAI protocol against a server that does what a test tells it to."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from include.embedders.openai import TEXTS_PER_REQUEST, OpenAIEmbedder
from include.errors import PermanentError, TransientError
from include.settings import EmbedSettings

DIMENSION = 3
type Reply = tuple[int, bytes]


def vector(text: str) -> list[float]:
    """A direction of the text's own, not of length one."""
    return [1.0 + len(text), float(sum(map(ord, text)) % 97), 2.0]


def good(request: dict[str, Any], *, as_list: bool = False) -> Reply:
    """The answer of a healthy server, its rows in another order."""
    rows = []
    for index, text in enumerate(request["input"]):
        packed = base64.b64encode(np.array(vector(text), dtype="<f4").tobytes()).decode()
        rows.append({"index": index, "embedding": vector(text) if as_list else packed})
    return 200, json.dumps({"data": rows[::-1]}).encode()


def data(*vectors: object) -> Reply:
    """An answer with these vectors, whatever was asked."""
    rows = [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return 200, json.dumps({"data": rows}).encode()


@dataclass
class Server:
    """Answers by ``reply`` and keeps what it was asked."""

    url: str
    reply: Callable[[dict[str, Any]], Reply] = good
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on loopback for one test."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.requests.append(request)
            state.keys.add(self.headers["Authorization"])
            status, body = state.reply(request)
            if status == 0:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Not on the screen."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Server(f"http://127.0.0.1:{listening.server_port}/v1")
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield state
    listening.shutdown()
    thread.join()
    listening.server_close()


@pytest.fixture
def embedder(server: Server) -> Iterator[OpenAIEmbedder]:
    """A client of that server."""
    made = OpenAIEmbedder(EmbedSettings(server.url, api_key="k3y", model="m", revision="1", dimension=DIMENSION))
    yield made
    made.close()


@pytest.mark.parametrize("as_list", [False, True])
def test_vectors_are_brought_to_length_one_in_order(server: Server, embedder: OpenAIEmbedder, as_list: bool) -> None:
    """Whether the server packs vectors or lists their numbers, and in whatever order it names them."""
    server.reply = lambda request: good(request, as_list=as_list)
    texts = ["long text", "", "b", "日本語", "b"]
    expected = np.array([vector(text) for text in texts])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = embedder.embed(texts)
    assert found.dtype == np.float32
    assert np.allclose(found, expected, atol=1e-6)
    assert server.keys == {"Bearer k3y"}
    assert server.requests[0]["model"] == "m"


def test_no_text_asks_nothing(server: Server, embedder: OpenAIEmbedder) -> None:
    """An empty list costs no request."""
    assert embedder.embed([]).shape == (0, DIMENSION)
    assert server.requests == []


def test_requests_are_bounded(server: Server, embedder: OpenAIEmbedder) -> None:
    """Many texts go in many requests of texts of like length, and long texts in fewer a request."""
    texts = [f"{number} " + "x" * (number % 50) for number in range(3 * TEXTS_PER_REQUEST + 1)]
    assert np.allclose(embedder.embed(texts), [_unit(text) for text in texts], atol=1e-6)
    assert sorted(len(request["input"]) for request in server.requests) == [1, *[TEXTS_PER_REQUEST] * 3]
    server.requests.clear()
    embedder.embed(["y" * 150_000, "z" * 150_000, "short"])
    assert len(server.requests) == 2


def _unit(text: str) -> np.ndarray:
    found = np.array(vector(text))
    return np.asarray(found / np.linalg.norm(found))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 0])
def test_what_passes_is_transient(server: Server, embedder: OpenAIEmbedder, status: int) -> None:
    """A server that is busy, failing or gone in the middle may be there again later. It is asked once."""
    server.reply = lambda _: (status, b'{"error": {"message": "later"}}')
    with pytest.raises(TransientError, match="later" if status else "does not answer"):
        embedder.embed(["a"])
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "setting"),
    [(401, "MILLRACE_EMBED_API_KEY"), (403, "MILLRACE_EMBED_API_KEY"), (404, "MILLRACE_EMBED_URL"), (400, "refused")],
)
def test_what_a_setting_must_cure_names_it(server: Server, embedder: OpenAIEmbedder, status: int, setting: str) -> None:
    """A refusal that will come again says which setting to look at, and never shows the key."""
    server.reply = lambda _: (status, b"<html>no</html>")
    with pytest.raises(PermanentError, match=setting) as caught:
        embedder.embed(["a"])
    assert "k3y" not in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ((200, b"<html>"), "protocol"),
        ((200, b'{"data": [{"index": 0}]}'), "protocol"),
        (data(), "0 vectors for 1 texts"),
        (data([1, 2, 3], [1, 2, 3]), "2 vectors for 1 texts"),
        (data([1, 2]), "dimension"),
        (data([1, 2, 3, 4]), "dimension"),
        (data([0, 0, 0]), "no direction"),
        (data(base64.b64encode(np.array([1, np.nan, 1], dtype="<f4").tobytes()).decode()), "no direction"),
        (data("AAA"), "base64"),
        (data("!!!!"), "base64"),
    ],
)
def test_an_answer_that_is_none_is_permanent(server: Server, embedder: OpenAIEmbedder, reply: Reply, says: str) -> None:
    """Vectors that cannot be right are never stored: the count, the dimension and the numbers are checked."""
    server.reply = lambda _: reply
    with pytest.raises(PermanentError, match=says):
        embedder.embed(["a"])


def test_one_failing_request_of_many_fails_the_call(server: Server, embedder: OpenAIEmbedder) -> None:
    """There is no half of an answer."""
    server.reply = lambda request: (503, b"") if "bad" in request["input"] else good(request)
    with pytest.raises(TransientError):
        embedder.embed(["bad", *(f"text {number}" for number in range(5 * TEXTS_PER_REQUEST))])


def test_nobody_listening_is_transient() -> None:
    """A server that is not up yet may come up."""
    embedder = OpenAIEmbedder(EmbedSettings("http://127.0.0.1:9/v1"))
    with pytest.raises(TransientError, match="does not answer"):
        embedder.embed(["a"])
    embedder.close()


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/v1", "127.0.0.1:80/v1", "http://[bad/v1", "http://host:port/v1"])
def test_a_url_that_is_none_names_its_setting(url: str) -> None:
    """A mistyped address is not tried again and again."""
    with pytest.raises(PermanentError, match="MILLRACE_EMBED_URL"):
        OpenAIEmbedder(EmbedSettings(url)).embed(["a"])
