"""The embedding server as an ASGI application: three routes, and errors in the shape that the protocol defines."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from include.embedding_server import wire
from include.embedding_server.batching import Batcher, BusyError
from include.embedding_server.engine import Engine
from include.embedding_server.settings import ServerSettings
from include.embedding_server.wire import RequestError
from include.errors import without_values

type Scope = Mapping[str, Any]
type Receive = Callable[[], Awaitable[Mapping[str, Any]]]
type Send = Callable[[dict[str, Any]], Awaitable[None]]

_LOG = logging.getLogger(__name__)


class App:
    """Answers 503 to every request that needs the model until ``start`` is called."""

    def __init__(self, settings: ServerSettings) -> None:
        self._model = settings.model
        self._authorization = f"Bearer {settings.api_key}".encode() if settings.api_key else None
        self._engine: Engine | None = None
        self._batcher: Batcher | None = None

    def start(self, engine: Engine) -> None:
        """Start to serve this model. Call it once, after the engine has embedded a first text."""
        self._engine, self._batcher = engine, Batcher(engine)

    def close(self) -> None:
        """Finish the pending texts, then stop the model's threads."""
        if self._batcher:
            self._batcher.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            status, body = 200, await self._route(scope, receive)
        except RequestError as error:
            status, body = error.status, error.body
        except Exception as exc:  # noqa: BLE001 # top level of a request: the client gets an answer, the log the cause
            _LOG.error("%s %s failed", scope["method"], scope["path"], exc_info=without_values(exc))
            failure = RequestError(500, "Internal server error; see the server's log.", kind="server_error")
            status, body = failure.status, failure.body
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if status in (429, 503):
            headers.append((b"retry-after", b"2"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _route(self, scope: Scope, receive: Receive) -> bytes:
        match scope["method"], scope["path"]:
            case "GET" | "HEAD", "/health":
                self._require_model()
                return b'{"status":"ok"}'
            case "GET" | "HEAD", "/v1/models":
                self._authorize(scope)
                return wire.encode_models(self._model)
            case "POST", "/v1/embeddings":
                self._authorize(scope)
                return await self._embed(scope, receive)
            case method, "/health" | "/v1/models" | "/v1/embeddings":
                raise RequestError(405, f"Method {method} is not allowed here.", code="method_not_allowed")
            case _:
                raise RequestError(404, "Unknown path.", code="unknown_url")
        raise AssertionError("the last case matches every request")

    async def _embed(self, scope: Scope, receive: Receive) -> bytes:
        engine, batcher = self._require_model()
        request = wire.parse_request(await _read_body(scope, receive), self._model, engine.dimension)
        row_of = {text: row for row, text in enumerate(dict.fromkeys(request.texts))}
        try:
            embeddings = await batcher.embed(list(row_of))
        except BusyError:
            raise RequestError(429, "Too many texts are waiting.", kind="rate_limit_error") from None
        rows = [row_of[text] for text in request.texts]
        return wire.encode_embeddings(request, embeddings.vectors, rows, embeddings.token_count)

    def _require_model(self) -> tuple[Engine, Batcher]:
        if self._engine is None or self._batcher is None:
            raise RequestError(503, "The model is still loading.", kind="server_error", code="loading")
        return self._engine, self._batcher

    def _authorize(self, scope: Scope) -> None:
        if self._authorization is None:
            return
        authorization = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if not hmac.compare_digest(authorization, self._authorization):
            raise RequestError(401, "The API key is missing or wrong.", code="invalid_api_key")


async def _read_body(scope: Scope, receive: Receive) -> bytes:
    """Read the whole body. One that is too large is refused without reading it to the end."""
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    parts, size, more = [], int(length) if length.isdigit() else 0, True
    while more and size <= wire.MAX_BODY:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError(400, "The client disconnected.")
        parts.append(message.get("body", b""))
        size = max(size, sum(map(len, parts)))
        more = message.get("more_body", False)
    if size > wire.MAX_BODY:
        raise RequestError(413, f"The body is larger than {wire.MAX_BODY} bytes.", code="request_too_large")
    return b"".join(parts)
