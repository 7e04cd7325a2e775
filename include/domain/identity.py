"""Computed ids: of an event, its content and its text; and the shard of a user.

Nothing here is random: the same input gives the same id on every machine, so every write can be repeated safely.
"""

from __future__ import annotations

import hashlib

_DIGEST_BYTES = 16  # 128 bits: the odds of one collision among 10^12 events are about 10^-15
_MURMUR2_SEED = 0x9747B28C
_MURMUR2_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def digest(data: bytes) -> str:
    """The first 128 bits of SHA-256 as 32 hex characters."""
    return hashlib.sha256(data).digest()[:_DIGEST_BYTES].hex()


def event_id(user_id: str, message_id: str) -> str:
    """The key of an event in every store: a digest of its identity.

    The length of the user id comes first, so that ("a", "bc") and ("ab", "c") differ.
    """
    user = user_id.encode()
    return digest(b"%d:%b%b" % (len(user), user, message_id.encode()))


def text_hash(text: str) -> str:
    """The key under which the vector of ``text`` is stored."""
    return digest(text.encode())


def murmur2(data: bytes) -> int:
    """Kafka's 32-bit murmur2 hash, unsigned (org.apache.kafka.common.utils.Utils.murmur2)."""
    length = len(data)
    h = (_MURMUR2_SEED ^ length) & _MASK
    whole = length - length % 4
    for i in range(0, whole, 4):
        k = (int.from_bytes(data[i : i + 4], "little") * _MURMUR2_M) & _MASK
        k = ((k ^ (k >> 24)) * _MURMUR2_M) & _MASK
        h = ((h * _MURMUR2_M) & _MASK) ^ k
    if whole < length:
        h = ((h ^ int.from_bytes(data[whole:], "little")) * _MURMUR2_M) & _MASK
    h = ((h ^ (h >> 13)) * _MURMUR2_M) & _MASK
    return h ^ (h >> 15)


def shard_of(user_id: str, shards: int) -> int:
    """The shard of a user: the partition that Kafka's Java clients choose for this key (DefaultPartitioner)."""
    return (murmur2(user_id.encode()) & 0x7FFFFFFF) % shards
