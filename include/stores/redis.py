"""Redis: the connection, its errors as ours, and the Lists port."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import batched
from pathlib import Path
from typing import Any

import redis
from redis import exceptions
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from include.domain.recommendation_list import ASKED_KEY, CURRENT_KEY, VERSION_BYTES, list_key, popular_key
from include.errors import ConfigurationError, PermanentError, TransientError
from include.settings import RedisSettings

CONNECT_TIMEOUT_S = 5
#: The longest wait for one reply; a pipeline of ours is answered within a fraction of a second.
REPLY_TIMEOUT_S = 10
#: How often the driver itself tries again. Every command of ours may run twice.
RETRIES = 2

#: Some megabytes of packed lists: big enough to hide the way there, small enough for the server to serve others.
LISTS_PER_PIPELINE = 500
KEYS_PER_PIPELINE = 5_000

_SCRIPT = (Path(__file__).parent / "lua" / "newest_wins.lua").read_bytes()
_SHA = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest()

#: What a server says while it is busy, full, loading, or changing its role.
_PASSING = ("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN")
_PASSING_CLASSES = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.OutOfMemoryError,
    exceptions.ReadOnlyError,
    exceptions.NoScriptError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
)
_REFUSED = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.MaxConnectionsError)


def connect(settings: RedisSettings) -> redis.Redis:
    """A client; it connects on first use. The caller closes it."""
    try:
        return redis.Redis.from_url(
            settings.url,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=REPLY_TIMEOUT_S,
            retry=Retry(ExponentialWithJitterBackoff(base=0.1, cap=1), RETRIES),
            decode_responses=False,
            client_name="millrace",
        )
    except ValueError as exc:
        # The driver's message may repeat the URL, and with it the password.
        raise ConfigurationError("the Redis URL must look like redis://[user]:[password]@host:port/db") from exc


@contextmanager
def translated() -> Iterator[None]:
    """The driver's errors as ours: a server that is away or busy is transient, a refusal or a wrong use is not."""
    try:
        yield
    except exceptions.RedisError as exc:
        kind = TransientError if _passes(exc) else PermanentError
        raise kind(f"Redis: {exc}") from exc


def _passes(exc: exceptions.RedisError) -> bool:
    if isinstance(exc, _REFUSED):
        return False
    return isinstance(exc, _PASSING_CLASSES) or str(exc).startswith(_PASSING)


class RedisLists:
    """Packed lists in Redis. Of two lists for one key the higher version stays, in whatever order they are written."""

    def __init__(self, settings: RedisSettings) -> None:
        self._client = connect(settings)

    def publish(self, generation: str, lists: Mapping[str, bytes], ttl_s: Mapping[str, int]) -> int:
        """Write each user's list with its time to live; how many were written, the others being older."""
        written = 0
        for users in batched(lists, LISTS_PER_PIPELINE):
            entries = [(list_key(generation, user), lists[user], ttl_s[user]) for user in users]
            written += self._keep_newest(entries)
        return written

    def publish_popular(self, generation: str, packed: bytes, ttl_s: int) -> None:
        """Write the list for users without one, unless a newer is there."""
        self._keep_newest([(popular_key(generation), packed, ttl_s)])

    def make_current(self, generation: str) -> None:
        """Let the reader serve this generation from now on."""
        with translated():
            self._client.set(CURRENT_KEY, generation.encode())

    def expiring(self, generation: str, users: Sequence[str], within_s: int) -> Sequence[str]:
        """Those of ``users`` whose list is absent or ends within that time, in their order."""
        found: list[str] = []
        for chunk in batched(users, KEYS_PER_PIPELINE):
            lives = self._lives([list_key(generation, user) for user in chunk])
            # -2: no such key. -1: a key without an end, which somebody else made; it stays.
            ending = (life == -2 or 0 <= life <= within_s * 1000 for life in lives)
            found += [user for user, ends in zip(chunk, ending, strict=True) if ends]
        return found

    def asked_since(self, since_s: int) -> Sequence[str]:
        """Users whose list the reader was asked for at or after that time (seconds since 1970)."""
        with translated():
            members: Any = self._client.zrange(ASKED_KEY, since_s, "+inf", byscore=True)
        return [member.decode() for member in members]

    def close(self) -> None:
        """Close the connections. The lists are of no use afterwards."""
        self._client.close()

    def _lives(self, keys: Sequence[bytes]) -> list[int]:
        """The milliseconds that each key has left."""

        def fill(pipe: Any) -> None:
            for key in keys:
                pipe.pttl(key)

        return self._pipelined(fill)

    def _keep_newest(self, entries: Sequence[tuple[bytes, bytes, int]]) -> int:
        for _, packed, _ in entries:
            if len(packed) < VERSION_BYTES:
                raise PermanentError("a packed list begins with eight bytes of version; this one is shorter")
        replies = self._evaluated(entries)
        missed = [entry for entry, reply in zip(entries, replies, strict=True) if _is_unknown_script(reply)]
        if missed:
            # The server started anew, or its scripts were flushed: between the two pipelines that may happen again.
            with translated():
                self._client.script_load(_SCRIPT)
            replies = [reply for reply in replies if not _is_unknown_script(reply)] + self._evaluated(missed)
        for reply in replies:
            if isinstance(reply, Exception):
                with translated():
                    raise reply
        return sum(replies)

    def _evaluated(self, entries: Sequence[tuple[bytes, bytes, int]]) -> list[Any]:
        def fill(pipe: Any) -> None:
            for key, packed, ttl_s in entries:
                pipe.evalsha(_SHA, 1, key, packed, ttl_s * 1000)

        return self._pipelined(fill, raise_on_error=False)

    def _pipelined(self, fill: Callable[[Any], object], raise_on_error: bool = True) -> list[Any]:
        with translated(), self._client.pipeline(transaction=False) as pipe:
            fill(pipe)
            replies: list[Any] = pipe.execute(raise_on_error=raise_on_error)
        return replies


def _is_unknown_script(reply: object) -> bool:
    return isinstance(reply, exceptions.NoScriptError)
