"""The recommendation list: the precompute packs it into Redis and the reader unpacks it.

A packed list is an eight-byte version (milliseconds since 1970, big endian) followed by MessagePack. The version comes
first and unpacked, so that a script in Redis can compare two lists without decoding them. The reader imports this
module, so it must not import anything heavy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

MAX_ITEMS = 60
VERSION_BYTES = 8
#: The most characters of an item's text that a list repeats: a text of 5 KB times 60 items would be 300 KB per user.
MAX_TEXT = 200

#: A ``learned`` list comes from the trained ranking; before the first training, lists come from ``similar_users``.
type ListSource = Literal["learned", "similar_users", "popular"]
#: What speaks most for an item; ``new``: only that nobody has engaged with it yet.
type ItemSource = Literal["similar_items", "similar_users", "similar_texts", "popular", "new"]


class RecommendedItem(msgspec.Struct, frozen=True, array_like=True):
    """One item. Scores are only comparable within one list. ``text`` is shortened, and never a user's message."""

    item_id: str
    score: float
    text: str | None
    source: ItemSource
    reason: str


class RecommendationList(msgspec.Struct, frozen=True, array_like=True):
    """A user's items, best first. ``generated_at`` is in milliseconds since 1970, UTC, and doubles as the version."""

    generated_at: int
    source: ListSource
    items: Sequence[RecommendedItem]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(RecommendationList)


def shorten_text(text: str) -> str:
    """``text``, or its beginning with an ellipsis: at most MAX_TEXT characters."""
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1].rstrip() + "…"


def pack(recommendations: RecommendationList) -> bytes:
    """Encode a list as it is stored in Redis."""
    return recommendations.generated_at.to_bytes(VERSION_BYTES, "big") + _ENCODER.encode(recommendations)


def unpack(packed: bytes) -> RecommendationList:
    """Decode a packed list. Raises ``msgspec.DecodeError`` if ``pack`` did not produce these bytes."""
    return _DECODER.decode(packed[VERSION_BYTES:])


def list_key(generation: str, user_id: str) -> bytes:
    """The Redis key of a user's list. The user id comes last, so that no id can collide with another user's key."""
    return b"recs:%b:%b" % (generation.encode(), user_id.encode())


def popular_key(generation: str) -> bytes:
    """The Redis key of the list for users without their own. It is outside ``recs:``, where user ids could collide."""
    return b"popular:%b" % generation.encode()


#: The Redis key that holds the name of the generation being served.
CURRENT_KEY = b"recs:current"
#: The Redis sorted set of users who recently requested their list; the score is the time in seconds since 1970.
RECENT_READERS_KEY = b"recs:recent-readers"
