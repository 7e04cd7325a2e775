"""Which shard a line belongs to: that of its user, or, where it has none, one by its number."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import NamedTuple

import msgspec

from include.domain.identity import shard_of

#: Users whose shard is remembered; enough for the busy ones of any size of shop, and bounded.
_REMEMBERED = 200_000


class Route(NamedTuple):
    """``key`` is the user's bytes, None for a line without one."""

    shard: int
    key: bytes | None


class _User(msgspec.Struct):
    user_id: str | None = None


class Router:
    """Routes lines. The same line with the same number goes the same way, in every process."""

    def __init__(self, shards: int) -> None:
        self._shards = shards
        self._decoder = msgspec.json.Decoder(_User)
        self._of_user = lru_cache(maxsize=_REMEMBERED)(self._route_user)

    def route(self, line: bytes, number: int) -> Route:
        """``number`` is the line's place in the input, from 0."""
        try:
            user = self._decoder.decode(line).user_id
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            user = _user_by_standard_library(line)
        return Route(number % self._shards, None) if user is None else self._of_user(user)

    def _route_user(self, user: str) -> Route:
        return Route(shard_of(user, self._shards), user.encode())


def _user_by_standard_library(line: bytes) -> str | None:
    """What the fast decoder refuses may still be a valid event to the standard library: both must agree on its user."""
    try:
        fields = json.loads(line.decode())
        user = fields["user_id"]
        user.encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return user if isinstance(user, str) else None
