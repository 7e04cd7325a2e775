"""The embedding server as an ASGI application: three routes, and refusals in the shape of the protocol."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from include.embedding_server import wire
from include.embedding_server.batching import Batcher, BusyError
from include.embedding_server.engine import Engine
from include.embedding_server.settings import ServerSettings
from include.embedding_server.wire import RefusedError

type Scope = Mapping[str, Any]
type Receive = Callable[[], Awaitable[Mapping[str, Any]]]
type Send = Callable[[dict[str, Any]], Awaitable[None]]

_LOG = logging.getLogger(__name__)


class App:
    """Answers 503 to everything that needs the model until ``ready`` was called."""

    def __init__(self, settings: ServerSettings) -> None:
        self._model = settings.model
        self._authorization = f"Bearer {settings.api_key}".encode() if settings.api_key else None
        self._engine: Engine | None = None
        self._batcher: Batcher | None = None

    def ready(self, engine: Engine) -> None:
        """Serve this model from now on. Called once, after it has embedded a first text."""
        self._engine, self._batcher = engine, Batcher(engine)

    def close(self) -> None:
        """End the model's threads after what they have to do."""
        if self._batcher:
            self._batcher.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            status, body = 200, await self._route(scope, receive)
        except RefusedError as refused:
            status, body = refused.status, refused.body
        except Exception:  # noqa: BLE001 # the head of a request: the client gets an answer, the log the cause
            _LOG.exception("%s %s failed", scope["method"], scope["path"])
            failed = RefusedError(500, "The server failed; its log says why.", kind="server_error")
            status, body = failed.status, failed.body
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if status in (429, 503):
            headers.append((b"retry-after", b"2"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _route(self, scope: Scope, receive: Receive) -> bytes:
        match scope["method"], scope["path"]:
            case "GET" | "HEAD", "/health":
                self._loaded()
                return b'{"status":"ok"}'
            case "GET" | "HEAD", "/v1/models":
                self._authorize(scope)
                return wire.write_models(self._model)
            case "POST", "/v1/embeddings":
                self._authorize(scope)
                return await self._embeddings(scope, receive)
            case method, "/health" | "/v1/models" | "/v1/embeddings":
                raise RefusedError(405, f"{method} is not allowed here.", code="method_not_allowed")
            case _, path:
                raise RefusedError(404, f"There is no {path} here.", code="unknown_url")
        raise AssertionError("a route for everything")

    async def _embeddings(self, scope: Scope, receive: Receive) -> bytes:
        engine, batcher = self._loaded()
        request = wire.read_request(await _body(scope, receive), self._model, engine.dimension)
        distinct = {text: row for row, text in enumerate(dict.fromkeys(request.texts))}
        try:
            embedded = await batcher.embed(list(distinct))
        except BusyError:
            raise RefusedError(429, "Too many texts are waiting.", kind="rate_limit_error") from None
        rows = [distinct[text] for text in request.texts]
        return wire.write_embeddings(request, embedded.vectors, rows, embedded.tokens)

    def _loaded(self) -> tuple[Engine, Batcher]:
        if self._engine is None or self._batcher is None:
            raise RefusedError(503, "The model is being loaded.", kind="server_error", code="loading")
        return self._engine, self._batcher

    def _authorize(self, scope: Scope) -> None:
        if self._authorization is None:
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if not hmac.compare_digest(given, self._authorization):
            raise RefusedError(401, "The API key is missing or wrong.", code="invalid_api_key")


async def _body(scope: Scope, receive: Receive) -> bytes:
    """The whole body. A larger one than allowed is refused before it is read."""
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    parts, size, more = [], int(length) if length.isdigit() else 0, True
    while more and size <= wire.MAX_BODY:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "The client has gone.")
        parts.append(message.get("body", b""))
        size = max(size, sum(map(len, parts)))
        more = message.get("more_body", False)
    if size > wire.MAX_BODY:
        raise RefusedError(413, f"The body may have {wire.MAX_BODY} bytes.", code="request_too_large")
    return b"".join(parts)
