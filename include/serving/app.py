"""The ASGI application: routes, answers, and what is answered when Redis does not."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

import msgspec

from include.serving.answers import UNREADABLE, Answer, body
from include.serving.asked import Asked
from include.serving.memory import Memory
from include.serving.metrics import Metrics
from include.serving.request import InvalidRequestError, limit_of, user_of
from include.serving.resp import StoreAwayError
from include.serving.store import Store

type Scope = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
type Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_JSON = [(b"content-type", b"application/json")]
_LATER = [*_JSON, (b"retry-after", b"1")]
_GET_ONLY = [*_JSON, (b"allow", b"GET, HEAD")]
_TEXT = [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]

_LOG = logging.getLogger(__name__)


class Reply(NamedTuple):
    """What is sent."""

    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]] = _JSON


class Reader:
    """The application. ``store`` needs no server to be up; ``keep`` of it runs from start to shutdown."""

    def __init__(self, store: Store, memory: Memory, asked: Asked, metrics: Metrics) -> None:
        self._store = store
        self._memory = memory
        self._asked = asked
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or live from startup to shutdown."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        began = time.perf_counter()
        try:
            reply = await self._reply(scope)
        except Exception:  # noqa: BLE001 - a mistake of ours: the caller gets JSON and no trace, the log gets all
            _LOG.exception("a request failed unexpectedly")
            reply = Reply(503, _error("no answer; try again"), _LATER)
        await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
        await send({"type": "http.response.body", "body": reply.body})
        self._metrics.observe(reply.status, time.perf_counter() - began)

    async def _reply(self, scope: Scope) -> Reply:
        parts = scope["raw_path"].split(b"/")
        is_user = len(parts) == 5 and parts[1] == b"v1" and parts[2] == b"users" and parts[4] == b"recommendations"
        page = None if is_user else _PAGES.get(scope["raw_path"])
        if not is_user and page is None:
            return Reply(404, _error("there is nothing here; see /v1/users/{user_id}/recommendations"))
        if scope["method"] not in ("GET", "HEAD"):
            return Reply(405, _error("only GET and HEAD"), _GET_ONLY)
        if page is not None:
            return page(self)
        try:
            user, user_id = user_of(parts[3])
            limit = limit_of(scope["query_string"])
        except InvalidRequestError as exc:
            return Reply(422, _error(str(exc)))
        return await self._recommendations(user, user_id, limit)

    async def _recommendations(self, user: bytes, user_id: str, limit: int) -> Reply:
        self._asked.note(user, int(time.time()))
        memory = self._memory
        partial = False
        try:
            found = await self._own_list(user, limit)
        except StoreAwayError:
            partial = True
            found = memory.recent.last_good(user, limit)
        found = found or memory.popular.answer(limit)
        if found is None:
            return Reply(503, _error(self._nothing_known(partial)), _LATER)
        self._metrics.answers[found.source, partial] += 1
        return Reply(200, body(user_id, found, partial))

    async def _own_list(self, user: bytes, limit: int) -> Answer | None:
        """The user's own list; None if there is none. Raises ``StoreAwayError``."""
        memory = self._memory
        if memory.generation is None:
            if self._store.breaker.is_open:
                raise StoreAwayError(self._store.reason)
            return None
        packed = await self._store.get(memory.key_prefix + user)
        if packed is None:
            return None
        if type(packed) is not bytes:
            self._metrics.redis_errors["reply"] += 1
            raise StoreAwayError(str(packed))
        try:
            return memory.recent.answer(user, packed, limit)
        except UNREADABLE:
            self._metrics.redis_errors["unreadable"] += 1
            return None

    def _nothing_known(self, partial: bool) -> str:
        if partial:
            return "Redis is away and no list was read since this reader started"
        return "no recommendations were published yet: the precompute has not run"

    def _health(self) -> Reply:
        return Reply(200, b'{"status":"ok"}')

    def _readiness(self) -> Reply:
        store = self._store
        checks = {
            "redis": store.reason if store.breaker.is_open else "ok",
            "generation": "ok" if store.has_current else "none is current: the precompute has not run",
        }
        ready = not store.breaker.is_open and store.has_current
        text = msgspec.json.encode({"status": "ok" if ready else "failing", "checks": checks})
        return Reply(200 if ready else 503, text, _JSON if ready else _LATER)

    def _counted(self) -> Reply:
        text = self._metrics.text(self._store.breaker.is_open, self._memory.generation is not None)
        return Reply(200, text.encode(), _TEXT)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        keeper: asyncio.Task[None] | None = None
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                # once before the first request, within a second: without Redis the reader starts all the same
                await self._store.refresh()
                keeper = asyncio.create_task(self._store.keep())
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                if keeper is not None:
                    keeper.cancel()
                await self._store.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


_PAGES: dict[bytes, Callable[[Reader], Reply]] = {
    b"/healthz": Reader._health,
    b"/readyz": Reader._readiness,
    b"/metrics": Reader._counted,
}


def _error(message: str) -> bytes:
    return msgspec.json.encode({"error": message})
