"""Packed lists into JSON, only as much of them as was asked for."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from include.domain.recommendation_list import VERSION_BYTES

_ENCODER = msgspec.json.Encoder()
#: What decoding bytes of another hand may raise.
UNREADABLE = (msgspec.MsgspecError, OverflowError, RecursionError, ValueError, OSError)


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    """An item as the list has it: by position."""

    item_id: str
    score: float
    text: str | None
    source: str
    reason: str


class _Shown(msgspec.Struct, frozen=True):
    """An item as the answer has it: by name."""

    item_id: str
    score: float
    text: str | None
    source: str
    reason: str


class Answer(NamedTuple):
    """The part of an answer that is the same for every user and every state of Redis."""

    source: str
    opening: bytes
    items: bytes


def render(packed: bytes, limit: int) -> Answer:
    """The first ``limit`` items of a packed list. Raises one of ``UNREADABLE`` on bytes that ``pack`` did not make."""
    decoded = _decoder(limit).decode(memoryview(packed)[VERSION_BYTES:])
    shown = [
        _Shown(item.item_id, item.score, item.text, item.source, item.reason)
        for item in msgspec.structs.astuple(decoded.items)
        if item is not None
    ]
    opening = b',"generated_at":"%b","source":%b,"partial":' % (
        _moment(decoded.generated_at),
        _ENCODER.encode(decoded.source),
    )
    return Answer(decoded.source, opening, _ENCODER.encode(shown))


def body(user_id: str, answer: Answer, partial: bool) -> bytes:
    """The whole answer to one user."""
    state = b'true,"missing":["redis"],"items":' if partial else b'false,"items":'
    return b"".join((b'{"user_id":', _ENCODER.encode(user_id), answer.opening, state, answer.items, b"}"))


@lru_cache(maxsize=64)
def _decoder(limit: int) -> msgspec.msgpack.Decoder[Any]:
    """A decoder of lists that makes objects of the first ``limit`` items and skips the others.

    An array decoded as a struct gives its first elements to the fields, and those beyond are passed over: for ten
    items of sixty that is three times as fast as decoding all.
    """
    fields = [(f"item_{index}", _Packed | None, None) for index in range(limit)]
    first = msgspec.defstruct("First", fields, array_like=True)
    columns = [("generated_at", int), ("source", str), ("items", first)]
    return msgspec.msgpack.Decoder(msgspec.defstruct("List", columns, array_like=True))


@lru_cache(maxsize=16)
def _moment(generated_at: int) -> bytes:
    """RFC 3339. All lists of a run have one moment, so this is nearly always remembered."""
    moment = datetime.fromtimestamp(generated_at / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()
