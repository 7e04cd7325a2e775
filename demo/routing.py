"""Choose the shard of a line: by its user, or by line number if it has no user."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import NamedTuple

import msgspec

from include.domain.identity import shard_of

#: The number of users whose shard is cached: enough for the active users of a large shop, and bounded.
_CACHED_USERS = 200_000


class Route(NamedTuple):
    """``key`` is the user id as bytes, or None for a line without a user."""

    shard: int
    key: bytes | None


class _User(msgspec.Struct):
    user_id: str | None = None


class Router:
    """Routes lines to shards. The same line with the same number gets the same route in every process."""

    def __init__(self, shards: int) -> None:
        self._shards = shards
        self._decoder = msgspec.json.Decoder(_User)
        self._cached_user_route = lru_cache(maxsize=_CACHED_USERS)(self._route_user)

    def route(self, line: bytes, number: int) -> Route:
        """``number`` is the position of the line in the input, from 0."""
        try:
            user = self._decoder.decode(line).user_id
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            user = _parse_user_with_stdlib(line)
        return Route(number % self._shards, None) if user is None else self._cached_user_route(user)

    def _route_user(self, user: str) -> Route:
        return Route(shard_of(user, self._shards), user.encode())


def _parse_user_with_stdlib(line: bytes) -> str | None:
    """A line that msgspec rejects may still be a valid event for the standard library: both must find its user."""
    try:
        fields = json.loads(line.decode())
        user = fields["user_id"]
        user.encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return user if isinstance(user, str) else None
