"""Ten ways to make an invalid line, each with the reason that validation must report for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from include.domain.event import ID_MAX
from include.domain.reasons import Reason

type Fields = dict[str, Any]


def _without(*names: str) -> Callable[[Fields], bytes]:
    return lambda fields: msgspec.json.encode({key: value for key, value in fields.items() if key not in names})


def _with(**changes: Any) -> Callable[[Fields], bytes]:
    return lambda fields: msgspec.json.encode({**fields, **changes})


def _truncate(fields: Fields) -> bytes:
    line = msgspec.json.encode(fields)
    return line[: len(line) * 2 // 3]


def _encode_as_latin1(fields: Fields) -> bytes:
    return msgspec.json.encode({**fields, "text": "crème brûlée dish"}).decode().encode("latin-1")


def _lengthen_message_id(fields: Fields) -> bytes:
    return msgspec.json.encode({**fields, "message_id": fields["message_id"].ljust(ID_MAX + 1, "x")})


#: The first seven cannot be decoded or have the wrong shape; the last three have an invalid value.
MALFORMED: Mapping[Reason, Callable[[Fields], bytes]] = {
    Reason.INVALID_JSON: _truncate,
    Reason.INVALID_UTF8: _encode_as_latin1,
    Reason.NOT_AN_OBJECT: lambda fields: msgspec.json.encode([fields["user_id"], fields["kind"]]),
    Reason.USER_ID_MISSING: _without("user_id"),
    Reason.MESSAGE_ID_NOT_A_STRING: _with(message_id=4711),
    Reason.OCCURRED_AT_INVALID: _with(occurred_at="yesterday at noon"),
    Reason.VALUE_NOT_A_NUMBER: _with(value="12,50"),
    Reason.MESSAGE_ID_LENGTH: _lengthen_message_id,
    Reason.OCCURRED_AT_IN_FUTURE: _with(occurred_at="2999-12-31T23:59:59Z"),
    Reason.NO_TEXT_AND_NO_ITEM: _without("text", "item_id"),
}
