"""The messages that a chaos run publishes: a pure function of the seed and of the time of each call."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, NamedTuple

from demo.malformed import MALFORMED
from include.domain.identity import shard_of

_KINDS = ("view", "click", "like", "share", "purchase", "return", "message", "wave")
_COLOURS = ("red", "green", "blue", "white", "black", "brass", "oak", "glass")
_THINGS = ("cup", "lamp", "chair", "clock", "bowl", "frame", "candle", "basket", "apron", "kettle")
_STYLES = ("plain", "vintage", "small", "large", "striped", "painted")
_LATE_HOURS = 48
#: Messages that may be repeated or revised; the oldest are forgotten, so that memory stays flat.
_REMEMBERED = 20_000
_SAME_BATCH = 50
#: The share of texts that nobody has sent before. All others are embedded in the first minutes; these let every batch
#: ask the embedding server.
_NEW_TEXTS = 0.05
#: The names of fields that only poison has, and only what a store is to refuse.
POISON_MARK = "chaos_poison"
REFUSED_MARK = "chaos_refused"
#: Unknown fields as large and as deep as an event may have: the worst that every store must accept.
_DEPTH = 30
_FILLER = "ä" * 40_000


@dataclass(frozen=True)
class Shares:
    """The share of each class of messages, between 0 and 1. What remains is new events that are on time.

    ``late`` is a share of the new events. ``conflicting``: the identity and version of an earlier event, other content.
    ``revised``: a higher version, which often gains or loses its text or its item. ``refused``: poison that the
    warehouse refuses; each batch that has some needs two runs.
    """

    repeated: float = 0.30
    malformed: float = 0.05
    poison: float = 0.01
    refused: float = 0.0002
    late: float = 0.20
    conflicting: float = 0.005
    revised: float = 0.05


class Message(NamedTuple):
    """One message for the partition ``shard``, and the class that it was made for."""

    shard: int
    key: bytes | None
    value: bytes
    made_for: str


class Load:
    """An endless stream of messages. Two with the same seed that are called in the same way make the same messages."""

    def __init__(
        self, seed: int, shards: int, shares: Shares | None = None, users: int = 300, items: int = 200
    ) -> None:
        self._random = Random(seed)
        # Readers run beside the publisher: their choices must not change what is published.
        self._readers_random = Random(seed)
        self._shards = shards
        self._shares = shares or Shares()
        self._users = users
        self._items = items
        self._sent: deque[Message] = deque(maxlen=_REMEMBERED)
        self._events: deque[dict[str, Any]] = deque(maxlen=_REMEMBERED)
        self._count = 0

    def take(self, count: int, now: datetime) -> list[Message]:
        """The next ``count`` messages, as published at ``now`` (with a time zone)."""
        return [self._next(now) for _ in range(count)]

    def known_users(self, count: int) -> list[str]:
        """Some users who have events; the same user may be in it twice."""
        return [self._readers_random.choice(self._events)["user_id"] for _ in range(count)] if self._events else []

    def _next(self, now: datetime) -> Message:
        message = self._make(self._choose(), now)
        self._sent.append(message)
        return message

    def _choose(self) -> str:
        point = self._random.random()
        for name in ("repeated", "malformed", "poison", "refused", "conflicting", "revised"):
            point -= getattr(self._shares, name)
            if point < 0:
                return name if self._events or name in ("malformed", "poison", "refused") else "new"
        return "new"

    def _make(self, made_for: str, now: datetime) -> Message:
        match made_for:
            case "repeated":
                return self._repeat()
            case "malformed":
                return self._malform(now)
            case "poison":
                return self._encode(self._poison(now), made_for)
            case "refused":
                return self._encode({**self._poison(now), REFUSED_MARK: True}, made_for)
            case "conflicting":
                fields = self._change(dict(self._random.choice(self._events)), now)
            case "revised":
                fields = self._revise(dict(self._random.choice(self._events)), now)
            case _:
                fields = self._event(now)
        self._events.append(fields)
        return self._encode(fields, made_for)

    def _repeat(self) -> Message:
        """The bytes of an earlier message: a third just sent, the others from any time."""
        recent = self._random.random() < 1 / 3
        index = self._random.randrange(min(_SAME_BATCH, len(self._sent))) + 1 if recent else None
        message = self._sent[-index] if index else self._random.choice(self._sent)
        return message._replace(made_for="repeated")

    def _malform(self, now: datetime) -> Message:
        fields = self._event(now)
        if self._random.random() < 1 / (len(MALFORMED) + 1):
            value = b""
        else:
            value = self._random.choice(list(MALFORMED.values()))(fields)
        return Message(self._random.randrange(self._shards), fields["user_id"].encode(), value, "malformed")

    def _poison(self, now: datetime) -> dict[str, Any]:
        nested: Any = {POISON_MARK: True, "$where": "1", "a.b": "."}
        for _ in range(_DEPTH - 1):
            nested = {"deeper": nested}
        return {**self._event(now), POISON_MARK: nested, "filler": _FILLER}

    def _event(self, now: datetime) -> dict[str, Any]:
        self._count += 1
        random = self._random
        late = random.random() < self._shares.late
        age = timedelta(milliseconds=random.randrange(_LATE_HOURS * 3_600_000 if late else 60_000))
        fields: dict[str, Any] = {
            "user_id": f"user-{self._skewed(self._users)}",
            "message_id": f"m{self._count}",
            "kind": random.choice(_KINDS),
            "occurred_at": (now - age).astimezone(UTC).isoformat(timespec="milliseconds"),
        }
        return self._change(fields, now)

    def _revise(self, fields: dict[str, Any], now: datetime) -> dict[str, Any]:
        return {**self._change(fields, now), "version": fields.get("version", 0) + 1}

    def _change(self, fields: dict[str, Any], _now: datetime) -> dict[str, Any]:
        """Other contents of the same identity, version and time: text and item come and go."""
        random = self._random
        fields = {name: value for name, value in fields.items() if name not in ("text", "item_id", "value")}
        shape = random.random()
        if shape < 0.8:
            fields["item_id"] = f"item-{self._skewed(self._items)}"
        if shape > 0.5:
            fields["text"] = f"{random.choice(_STYLES)} {random.choice(_COLOURS)} {random.choice(_THINGS)}"
            if random.random() < _NEW_TEXTS:
                fields["text"] += f" {random.randrange(10**9)}"
        if random.random() < 0.5:
            fields["campaign_id"] = f"campaign-{random.randrange(8)}"
        if random.random() < 0.3:
            fields["value"] = random.randrange(10_000) / 100
        return fields

    def _skewed(self, count: int) -> int:
        """A number below ``count``; the lower, the likelier."""
        return int(count * self._random.random() ** 2)

    def _encode(self, fields: dict[str, Any], made_for: str) -> Message:
        user = fields["user_id"]
        value = json.dumps(fields, ensure_ascii=False).encode()
        return Message(shard_of(user, self._shards), user.encode(), value, made_for)


def is_refused(_origin: str, payload: bytes | None) -> bool:
    """Whether ``Load`` made this payload so that a store refuses it."""
    return payload is not None and f'"{REFUSED_MARK}"'.encode() in payload


def shares_of(messages: Sequence[Message]) -> Iterator[tuple[str, float]]:
    """The share of each class in these messages."""
    for name in sorted({message.made_for for message in messages}):
        yield name, sum(message.made_for == name for message in messages) / len(messages)
