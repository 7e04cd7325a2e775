"""The recommendation list: what the precompute packs into Redis and the reader unpacks.

Packed, it is eight bytes of version (milliseconds since 1970, big endian), then MessagePack. The version stands
outside so that a script in Redis can compare it without unpacking. This module imports nothing heavy: the reader
lives on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

MAX_ITEMS = 60
VERSION_BYTES = 8

type ListSource = Literal["similar_users", "popular"]
type ItemSource = Literal["similar_users", "popular"]


class RecommendedItem(msgspec.Struct, frozen=True, array_like=True):
    """One item; ``score`` is comparable within its list only."""

    item_id: str
    score: float
    text: str | None
    source: ItemSource
    reason: str


class RecommendationList(msgspec.Struct, frozen=True, array_like=True):
    """A user's items, best first. ``generated_at`` is milliseconds since 1970, UTC, and is the list's version."""

    generated_at: int
    source: ListSource
    items: Sequence[RecommendedItem]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(RecommendationList)


def pack(recommendations: RecommendationList) -> bytes:
    """The bytes that Redis keeps."""
    return recommendations.generated_at.to_bytes(VERSION_BYTES, "big") + _ENCODER.encode(recommendations)


def unpack(packed: bytes) -> RecommendationList:
    """The list in ``packed``. Raises ``msgspec.DecodeError`` on bytes that ``pack`` did not make."""
    return _DECODER.decode(packed[VERSION_BYTES:])


def list_key(generation: str, user_id: str) -> bytes:
    """The Redis key of a user's list. The user comes last, so that no user can imitate another's key."""
    return b"recs:%b:%b" % (generation.encode(), user_id.encode())


def popular_key(generation: str) -> bytes:
    """The Redis key of the list for users without one. Apart from ``recs:``, so that no user id can be it."""
    return b"popular:%b" % generation.encode()


#: The Redis key that names the generation served now.
CURRENT_KEY = b"recs:current"
#: The Redis sorted set of users whose list was asked for: score = seconds since 1970 of the last request.
ASKED_KEY = b"recs:asked"
