"""Redis: the connection, error translation, and the Lists port."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import batched
from pathlib import Path
from typing import Any

import redis
from redis import exceptions
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from include.domain.recommendation_list import CURRENT_KEY, RECENT_READERS_KEY, VERSION_BYTES, list_key, popular_key
from include.errors import ConfigurationError, PermanentError, TransientError
from include.settings import RedisSettings

CONNECT_TIMEOUT_S = 5
#: The longest wait for one reply; a pipeline is normally answered within a fraction of a second.
REPLY_TIMEOUT_S = 10
#: How often the driver itself retries. Every command sent here may run twice.
RETRIES = 2

#: Some megabytes of packed lists: large enough to hide the round trip, small enough not to block other clients.
LISTS_PER_PIPELINE = 500
KEYS_PER_PIPELINE = 5_000

_SCRIPT = (Path(__file__).parent / "lua" / "newest_wins.lua").read_bytes()
_SHA = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest()

#: Error prefixes of a server that is busy, full, loading, or changing its role.
_TRANSIENT_PREFIXES = (
    "BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN",
)  # fmt: skip
_PERMANENT_PREFIXES = ("CROSSSLOT", "EXECABORT", "NOAUTH", "NOPERM", "NOPROTO", "NOSCRIPT", "WRONGPASS", "WRONGTYPE")
#: For a command of a pipeline, the driver puts the command in front, with its arguments: users and their lists.
_ERROR_PREFIX = re.compile(
    rf"(?:Command # .* of pipeline caused error: )?({'|'.join(_TRANSIENT_PREFIXES + _PERMANENT_PREFIXES)})\b", re.DOTALL
)
_TRANSIENT_CLASSES = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.OutOfMemoryError,
    exceptions.ReadOnlyError,
    exceptions.NoScriptError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
)
_ACCESS_DENIED = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.MaxConnectionsError)


def connect(settings: RedisSettings) -> redis.Redis:
    """A client that connects on first use. The caller closes it."""
    try:
        return redis.Redis.from_url(
            settings.url,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=REPLY_TIMEOUT_S,
            retry=Retry(ExponentialWithJitterBackoff(base=0.1, cap=1), RETRIES),
            decode_responses=False,
            client_name="millrace",
        )
    except ValueError:
        # The driver's message may contain the URL, and with it the password.
        raise ConfigurationError("the Redis URL must look like redis://[user]:[password]@host:port/db") from None


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise driver errors as a ``TransientError`` (unavailable, busy) or ``PermanentError`` (refused, misused)."""
    try:
        yield
    except exceptions.RedisError as exc:
        kind = TransientError if _is_transient(exc) else PermanentError
        # Its message may quote the arguments of the command.
        description = " ".join(filter(None, [type(exc).__name__, _error_prefix(exc)]))
        raise kind(f"Redis: {description}; check redis_default and the server's log") from None


def _is_transient(exc: exceptions.RedisError) -> bool:
    if isinstance(exc, _ACCESS_DENIED):
        return False
    return isinstance(exc, _TRANSIENT_CLASSES) or _error_prefix(exc) in _TRANSIENT_PREFIXES


def _error_prefix(exc: exceptions.RedisError) -> str:
    """The server's word for the kind of error, which begins its reply; empty if there is none."""
    match = _ERROR_PREFIX.match(str(exc))
    return match[1] if match else ""


class RedisLists:
    """Packed lists in Redis. Of two lists for one key the higher version stays, whatever the order of writing."""

    def __init__(self, settings: RedisSettings) -> None:
        self._client = connect(settings)

    def publish(self, generation: str, lists: Mapping[str, bytes], ttl_s: Mapping[str, int]) -> int:
        """Write each user's list with its TTL. Returns the number written; older lists are skipped."""
        written = 0
        for users in batched(lists, LISTS_PER_PIPELINE):
            entries = [(list_key(generation, user), lists[user], ttl_s[user]) for user in users]
            written += self._set_if_newer(entries)
        return written

    def publish_popular(self, generation: str, packed: bytes, ttl_s: int) -> None:
        """Write the list for users without one of their own, unless a newer one is stored."""
        self._set_if_newer([(popular_key(generation), packed, ttl_s)])

    def set_current_generation(self, generation: str) -> None:
        """Make the reader serve this generation from now on."""
        with translate_errors():
            self._client.set(CURRENT_KEY, generation.encode())

    def find_expiring(self, generation: str, users: Sequence[str], within_s: int) -> Sequence[str]:
        """Those of ``users`` whose list is missing or expires within that time, in the same order."""
        expiring: list[str] = []
        for chunk in batched(users, KEYS_PER_PIPELINE):
            ttls_ms = self._ttls_ms([list_key(generation, user) for user in chunk])
            # -2: no such key. -1: a key without a TTL, which someone else created; it stays.
            due = (ttl_ms == -2 or 0 <= ttl_ms <= within_s * 1000 for ttl_ms in ttls_ms)
            expiring += [user for user, is_due in zip(chunk, due, strict=True) if is_due]
        return expiring

    def read_recent_readers(self, since_s: int) -> Sequence[str]:
        """Users whose list was requested at or after that time (seconds since 1970)."""
        with translate_errors():
            members: Any = self._client.zrange(RECENT_READERS_KEY, since_s, "+inf", byscore=True)
        return [member.decode() for member in members]

    def forget_readers(self, users: Sequence[str]) -> None:
        """Remove these users from the recent readers."""
        for chunk in batched(users, KEYS_PER_PIPELINE):
            with translate_errors():
                self._client.zrem(RECENT_READERS_KEY, *(user.encode() for user in chunk))

    def close(self) -> None:
        """Close the connections. Do not use the lists after closing."""
        self._client.close()

    def _ttls_ms(self, keys: Sequence[bytes]) -> list[int]:
        """The remaining TTL of each key in milliseconds, as PTTL reports it."""

        def fill(pipe: Any) -> None:
            for key in keys:
                pipe.pttl(key)

        return self._run_pipeline(fill)

    def _set_if_newer(self, entries: Sequence[tuple[bytes, bytes, int]]) -> int:
        for _, packed, _ in entries:
            if len(packed) < VERSION_BYTES:
                raise PermanentError("a packed list begins with eight bytes of version; this one is shorter")
        replies = self._run_script(entries)
        missed = [entry for entry, reply in zip(entries, replies, strict=True) if _is_unknown_script(reply)]
        if missed:
            # The server restarted, or its scripts were flushed. It may happen again between the two pipelines.
            with translate_errors():
                self._client.script_load(_SCRIPT)
            replies = [reply for reply in replies if not _is_unknown_script(reply)] + self._run_script(missed)
        for reply in replies:
            if isinstance(reply, Exception):
                with translate_errors():
                    raise reply
        return sum(replies)

    def _run_script(self, entries: Sequence[tuple[bytes, bytes, int]]) -> list[Any]:
        def fill(pipe: Any) -> None:
            for key, packed, ttl_s in entries:
                pipe.evalsha(_SHA, 1, key, packed, ttl_s * 1000)

        return self._run_pipeline(fill, raise_on_error=False)

    def _run_pipeline(self, fill: Callable[[Any], object], raise_on_error: bool = True) -> list[Any]:
        with translate_errors(), self._client.pipeline(transaction=False) as pipe:
            fill(pipe)
            replies: list[Any] = pipe.execute(raise_on_error=raise_on_error)
        return replies


def _is_unknown_script(reply: object) -> bool:
    return isinstance(reply, exceptions.NoScriptError)
