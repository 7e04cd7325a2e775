"""Events for the contract suites."""

from __future__ import annotations

from typing import Any

from include.domain.batch import Record
from include.domain.event import Event
from tests.canary import ODD


def event(**changes: Any) -> Event:
    """A purchase of item i by user u at the start of 1970, with these fields changed."""
    fields = {"user_id": "u", "message_id": "m", "kind": "purchase", "occurred_at": 0, "item_id": "i"}
    return Event(**{**fields, **changes})


def marked_event(**changes: Any) -> Event:
    """A message whose every id and text is marked, with these fields changed."""
    names = ("user_id", "message_id", "item_id", "campaign_id", "text")
    return event(**{**dict.fromkeys(names, ODD), "kind": "message", **changes})


def record(offset: int, value: bytes | None = None) -> Record:
    """A Kafka message of shard 0, published at the start of 1970."""
    return Record(shard=0, offset=offset, published_at=0, key=None, value=value)
