"""What docs/events.md says about one message, written a second time: none of this uses the pipeline's code.

Slow and plain on purpose: the standard library's JSON, a regular expression for times. msgspec only writes the
canonical form of a content, whose digest decides between two revisions with one version.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NamedTuple, NoReturn

import msgspec

#: How strongly one engagement of a kind counts (docs/recommendations.md); every other kind counts 1.
KIND_WEIGHTS = {"view": 0.2, "click": 0.4, "return": 0.0}
#: Every reason that a rule gives. A dead letter with another one was refused by a store.
RULE_REASONS = frozenset(
    [
        *("empty_message", "invalid_utf8", "invalid_json", "not_an_object", "forbidden_characters"),
        *("user_id_missing", "message_id_missing", "kind_missing", "occurred_at_missing", "occurred_at_invalid"),
        *("user_id_not_a_string", "message_id_not_a_string", "kind_not_a_string", "text_not_a_string"),
        *("item_id_not_a_string", "campaign_id_not_a_string", "value_not_a_number", "value_not_finite"),
        *("version_not_an_integer", "version_out_of_range", "unknown_fields_not_storable", "occurred_at_in_future"),
        *("user_id_length", "message_id_length", "kind_length", "item_id_length", "campaign_id_length"),
        *("no_text_and_no_item", "published_at_missing"),
    ]
)
HOUR_MS = 3_600_000
_DAY_MS = 24 * HOUR_MS

_KNOWN = (
    "user_id", "message_id", "kind", "occurred_at", "text", "item_id", "campaign_id", "value", "version",
)  # fmt: skip
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:([Zz])|([+-])([0-9]{2}):?([0-9]{2}))"
)
_FORBIDDEN = re.compile("[\x00\ud800-\udfff]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_1 = -62_135_596_800_000
_YEAR_10000 = 253_402_300_800_000


class ExpectedEvent(NamedTuple):
    """A valid event as every store must have it; times are ms since 1970, ``extra`` is JSON with sorted names."""

    event_id: str
    user_id: str
    message_id: str
    kind: str
    occurred_at: int
    text: str | None
    item_id: str | None
    campaign_id: str | None
    value: float | None
    version: int
    digest: str
    extra: str | None
    text_hash: str | None


class _BrokenRuleError(Exception):
    """The first rule that a message breaks."""


def read_message(payload: bytes | None, published_at: int) -> ExpectedEvent | str:
    """The event in a message that was published at that time (ms since 1970), or the reason why it is not one."""
    try:
        return _read(payload, published_at)
    except _BrokenRuleError as broken:
        return str(broken)


def hash_bytes(data: bytes) -> str:
    """Half a SHA-256, in hex."""
    return hashlib.sha256(data).hexdigest()[:32]


def kind_weight(kind: str) -> float:
    """How strongly one engagement of that kind counts."""
    return KIND_WEIGHTS.get(kind, 1.0)


def _refuse(reason: str) -> NoReturn:
    raise _BrokenRuleError(reason)


def _read(payload: bytes | None, published_at: int) -> ExpectedEvent:
    fields = _parse(payload)
    user_id, message_id, kind = (_required(fields, name) for name in ("user_id", "message_id", "kind"))
    occurred_at = _time(fields.get("occurred_at"))
    text = _optional(fields, "text")
    if text is not None and not text.strip():
        text = None
    item_id, campaign_id = _optional(fields, "item_id"), _optional(fields, "campaign_id")
    value, version = _value(fields.get("value")), _version(fields.get("version"))
    extra = _extra({name: value for name, value in fields.items() if name not in _KNOWN and value is not None})
    _check_lengths({"user_id": user_id, "message_id": message_id, "kind": kind}, 128)
    if published_at < 0:
        _refuse("published_at_missing")
    if occurred_at - published_at > _DAY_MS:
        _refuse("occurred_at_in_future")
    _check_lengths({"item_id": item_id, "campaign_id": campaign_id}, 256)
    if text is None and item_id is None:
        _refuse("no_text_and_no_item")
    content = {
        "user_id": user_id, "message_id": message_id, "kind": kind, "occurred_at": occurred_at, "text": text,
        "item_id": item_id, "campaign_id": campaign_id, "value": value, "version": version, "extra": extra,
    }  # fmt: skip
    return ExpectedEvent(
        event_id=hash_bytes(f"{len(user_id.encode())}:{user_id}{message_id}".encode()),
        **content,  # type: ignore[arg-type]
        digest=hash_bytes(msgspec.json.encode(content)),
        text_hash=None if text is None else hash_bytes(text.encode()),
    )


def _parse(payload: bytes | None) -> dict[str, Any]:
    if not payload:
        _refuse("empty_message")
    try:
        fields = json.loads(payload.decode("utf-8", "strict"))
    except UnicodeDecodeError:
        _refuse("invalid_utf8")
    except (ValueError, RecursionError):
        _refuse("invalid_json")
    if not isinstance(fields, dict):
        _refuse("not_an_object")
    return fields


def _check_characters(text: str) -> None:
    if _FORBIDDEN.search(text):
        _refuse("forbidden_characters")


def _required(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        _refuse(f"{name}_missing")
    if not isinstance(value, str):
        _refuse(f"{name}_not_a_string")
    _check_characters(value)
    return value


def _optional(fields: dict[str, Any], name: str) -> str | None:
    return _required(fields, name) or None if fields.get(name) is not None else None


def _time(value: Any) -> int:
    if value is None:
        _refuse("occurred_at_missing")
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        _refuse("occurred_at_invalid")
    *parts, fraction, _, sign, hours, minutes = match.groups()
    zone = UTC
    try:
        if sign:
            if int(minutes) > 59:
                _refuse("occurred_at_invalid")
            zone = timezone(timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if sign == "-" else 1))
        year, month, day, hour, minute, second = map(int, parts)
        moment = datetime(year, month, day, hour, minute, second, tzinfo=zone)
    except ValueError:
        _refuse("occurred_at_invalid")
    milliseconds = (moment - _EPOCH) // timedelta(seconds=1) * 1000 + int((fraction or "")[:3].ljust(3, "0"))
    if not _YEAR_1 <= milliseconds < _YEAR_10000:
        _refuse("occurred_at_invalid")
    return milliseconds


def _value(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse("value_not_a_number")
    try:
        number = float(value)
    except OverflowError:
        _refuse("value_not_finite")
    if math.isnan(number) or math.isinf(number):
        _refuse("value_not_finite")
    return 0.0 if number == 0 else number


def _version(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int):
        _refuse("version_not_an_integer")
    if value < 0 or value >= 2**63:
        _refuse("version_out_of_range")
    return value


def _extra(unknown: dict[str, Any]) -> str | None:
    if not unknown:
        return None
    _check_unknown(unknown, 1)
    return msgspec.json.encode(unknown, order="deterministic").decode()


def _check_unknown(value: Any, level: int) -> None:
    if isinstance(value, str):
        _check_characters(value)
    elif isinstance(value, float):
        if not math.isfinite(value):
            _refuse("unknown_fields_not_storable")
    elif isinstance(value, int):
        if not -(2**63) <= value <= 2**63 - 1:
            _refuse("unknown_fields_not_storable")
    elif isinstance(value, dict | list):
        if level > 32:
            _refuse("unknown_fields_not_storable")
        for member in [*value, *value.values()] if isinstance(value, dict) else value:
            _check_unknown(member, level + 1)


def _check_lengths(values: dict[str, str | None], limit: int) -> None:
    for name, value in values.items():
        if value is not None and not 1 <= len(value) <= limit:
            _refuse(f"{name}_length")
