"""The ASGI application: routing, responses, and the fallbacks for when Redis is unavailable."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

import msgspec
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from include.errors import without_values
from include.serving.cache import ListCache
from include.serving.metrics import Metrics
from include.serving.recent_readers import RecentReaders
from include.serving.rendering import DECODE_ERRORS, RenderedList, build_body
from include.serving.request import InvalidRequestError, parse_limit, parse_user
from include.serving.resp import StoreUnavailableError
from include.serving.store import Store

type Scope = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
type Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# Without this header, the server would name itself.
_SERVER = (b"server", b"millrace")
_JSON = [(b"content-type", b"application/json"), _SERVER]
_JSON_RETRY = [*_JSON, (b"retry-after", b"1")]
_JSON_ALLOW = [*_JSON, (b"allow", b"GET, HEAD")]
_METRICS_TEXT = [(b"content-type", CONTENT_TYPE_PLAIN_0_0_4.encode()), _SERVER]

_LOG = logging.getLogger(__name__)


class Response(NamedTuple):
    """A complete HTTP response."""

    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]] = _JSON


class Reader:
    """The application. It starts whether or not Redis is up, and runs the store's refresh loop until shutdown."""

    def __init__(self, store: Store, cache: ListCache, recent_readers: RecentReaders, metrics: Metrics) -> None:
        self._store = store
        self._cache = cache
        self._recent_readers = recent_readers
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or handle the ASGI lifespan."""
        if scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
            return
        began = time.perf_counter()
        try:
            response = await self._respond(scope)
        except Exception as exc:  # noqa: BLE001 - a bug: the client gets JSON without details, the log the traceback
            _LOG.error("unexpected error while handling a request", exc_info=without_values(exc))
            response = Response(503, _encode_error("internal error; try again"), _JSON_RETRY)
        await send({"type": "http.response.start", "status": response.status, "headers": response.headers})
        await send({"type": "http.response.body", "body": response.body})
        self._metrics.observe_request(response.status, time.perf_counter() - began)

    async def _respond(self, scope: Scope) -> Response:
        parts = scope["raw_path"].split(b"/")
        is_user = len(parts) == 5 and parts[1] == b"v1" and parts[2] == b"users" and parts[4] == b"recommendations"
        endpoint = None if is_user else _ENDPOINTS.get(scope["raw_path"])
        if not is_user and endpoint is None:
            return Response(404, _encode_error("not found; try /v1/users/{user_id}/recommendations"))
        if scope["method"] not in ("GET", "HEAD"):
            return Response(405, _encode_error("only GET and HEAD are allowed"), _JSON_ALLOW)
        if endpoint is not None:
            return endpoint(self)
        try:
            user, user_id = parse_user(parts[3])
            limit = parse_limit(scope["query_string"])
        except InvalidRequestError as exc:
            return Response(422, _encode_error(str(exc)))
        return await self._recommend(user, user_id, limit)

    async def _recommend(self, user: bytes, user_id: str, limit: int) -> Response:
        self._recent_readers.record(user, int(time.time()))
        cache = self._cache
        partial = False
        try:
            rendered = await self._read_list(user, limit)
        except StoreUnavailableError:
            partial = True
            rendered = cache.recent.render_last_valid(user, limit)
        rendered = rendered or cache.popular.render(limit)
        if rendered is None:
            return Response(503, _encode_error(_explain_no_list(partial)), _JSON_RETRY)
        self._metrics.count_answer(rendered.source, partial)
        return Response(200, build_body(user_id, rendered, partial))

    async def _read_list(self, user: bytes, limit: int) -> RenderedList | None:
        """Read the user's list from Redis; None if the user has none. Raises ``StoreUnavailableError``."""
        cache = self._cache
        if cache.generation is None:
            if self._store.breaker.is_open:
                raise StoreUnavailableError(self._store.reason)
            return None
        packed = await self._store.get(cache.key_prefix + user)
        if packed is None:
            return None
        if type(packed) is not bytes:
            self._metrics.count_redis_error("reply")
            raise StoreUnavailableError(str(packed))
        try:
            return cache.recent.render(user, packed, limit)
        except DECODE_ERRORS:
            self._metrics.count_redis_error("unreadable")
            return None

    def _get_health(self) -> Response:
        return Response(200, b'{"status":"ok"}')

    def _get_readiness(self) -> Response:
        """States only: the reason, which names the address and the error, is in the log."""
        store = self._store
        checks = {
            "redis": "unavailable" if store.breaker.is_open else "ok",
            "generation": "ok" if store.has_current else "not published",
        }
        ready = not store.breaker.is_open and store.has_current
        body = msgspec.json.encode({"status": "ok" if ready else "failing", "checks": checks})
        return Response(200 if ready else 503, body, _JSON if ready else _JSON_RETRY)

    def _get_metrics(self) -> Response:
        return Response(200, self._metrics.render(), _METRICS_TEXT)

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        refresh_loop: asyncio.Task[None] | None = None
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                # Refresh once before the first request. It takes at most a second, and may fail if Redis is down.
                await self._store.refresh()
                refresh_loop = asyncio.create_task(self._store.run_refresh_loop())
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                if refresh_loop is not None:
                    refresh_loop.cancel()
                await self._store.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


_ENDPOINTS: dict[bytes, Callable[[Reader], Response]] = {
    b"/healthz": Reader._get_health,
    b"/readyz": Reader._get_readiness,
    b"/metrics": Reader._get_metrics,
}


def _explain_no_list(partial: bool) -> str:
    if partial:
        return "Redis is unavailable and this reader has not read any list yet"
    return "no recommendations have been published yet: the precompute has not run"


def _encode_error(message: str) -> bytes:
    return msgspec.json.encode({"error": message})
