"""The event: decodes the bytes of a Kafka message into a frozen value, or gives the reason why it is not valid.

Only the shape is checked here; values are checked for a whole batch at once (``include/validation``).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import msgspec

from include.domain.identity import digest, event_id, text_hash
from include.domain.precedence import Precedence
from include.domain.reasons import Reason

ID_MAX = 128
LABEL_MAX = 256  # item and campaign: three of them and the kind fit one PostgreSQL index entry
VERSION_MAX = 2**63 - 1
FUTURE_LIMIT = timedelta(days=1)
KNOWN_KINDS = frozenset({"message", "view", "click", "like", "share", "purchase", "return"})

_MAX_DEPTH = 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_FIELDS = frozenset(
    {"user_id", "message_id", "kind", "occurred_at", "text", "item_id", "campaign_id", "value", "version"}
)
_FORBIDDEN = re.compile("[\x00\ud800-\udfff]")


class InvalidEventError(Exception):
    """A message that is not a valid event; ``reason`` says why. Never leaves the staging of its batch."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Event(msgspec.Struct, frozen=True):
    """One event as every store holds it. Absent fields are None; times are milliseconds since 1970, UTC."""

    user_id: str
    message_id: str
    kind: str
    occurred_at: int
    text: str | None = None
    item_id: str | None = None
    campaign_id: str | None = None
    value: float | None = None
    version: int = 0
    #: Unknown fields as one JSON object with sorted keys; None when there are none.
    extra: str | None = None

    @property
    def event_id(self) -> str:
        """The digest of (user_id, message_id): the key in every store."""
        return event_id(self.user_id, self.message_id)

    @property
    def text_hash(self) -> str | None:
        """The key of the text's vector; None without a text."""
        return None if self.text is None else text_hash(self.text)

    @property
    def digest(self) -> str:
        """A digest of the content: equal for equal events, however their JSON is written."""
        return digest(_CANONICAL.encode(self))

    @property
    def precedence(self) -> Precedence:
        """Decides between two events with one identity: the higher wins, whatever the order of arrival."""
        return Precedence(self.version, self.digest)


_CANONICAL = msgspec.json.Encoder(order="deterministic")
_DECODER = msgspec.json.Decoder()


def decode(payload: bytes | None) -> Event:
    """The event in ``payload``. Raises ``InvalidEventError`` with the first rule that fails, in the order of Reason."""
    fields = _read_object(payload)
    user_id = _require_string(fields, "user_id", Reason.USER_ID_MISSING, Reason.USER_ID_NOT_A_STRING)
    message_id = _require_string(fields, "message_id", Reason.MESSAGE_ID_MISSING, Reason.MESSAGE_ID_NOT_A_STRING)
    kind = _require_string(fields, "kind", Reason.KIND_MISSING, Reason.KIND_NOT_A_STRING)
    return Event(
        user_id=user_id,
        message_id=message_id,
        kind=kind,
        occurred_at=_parse_time(fields.get("occurred_at")),
        text=_parse_text(fields.get("text")),
        item_id=_optional_string(fields.get("item_id"), Reason.ITEM_ID_NOT_A_STRING),
        campaign_id=_optional_string(fields.get("campaign_id"), Reason.CAMPAIGN_ID_NOT_A_STRING),
        value=_parse_number(fields.get("value")),
        version=_parse_integer(fields.get("version")),
        extra=_encode_extra(fields),
    )


def _reject(reason: Reason) -> NoReturn:
    raise InvalidEventError(reason)


def _read_object(payload: bytes | None) -> dict[str, Any]:
    if not payload:
        _reject(Reason.EMPTY_MESSAGE)
    try:
        fields = _DECODER.decode(payload)
    except UnicodeDecodeError:
        _reject(Reason.INVALID_UTF8)
    except (msgspec.DecodeError, RecursionError):
        fields = _read_leniently(payload)
    if not isinstance(fields, dict):
        _reject(Reason.NOT_AN_OBJECT)
    return fields


def _read_leniently(payload: bytes) -> Any:
    """Read what the fast decoder rejects and the standard library accepts (NaN, 1e400, a lone surrogate): the rule of
    the field that contains it gives a better reason than "invalid JSON"."""
    try:
        return json.loads(payload.decode())
    except UnicodeDecodeError:
        _reject(Reason.INVALID_UTF8)
    except (ValueError, RecursionError):
        _reject(Reason.INVALID_JSON)


def _check_characters(value: str) -> str:
    # isascii only reads a flag of the string, so nearly all ids skip the regular expression
    if "\x00" in value or (not value.isascii() and _FORBIDDEN.search(value)):
        _reject(Reason.FORBIDDEN_CHARACTERS)
    return value


def _require_string(fields: dict[str, Any], name: str, missing: Reason, not_a_string: Reason) -> str:
    value = fields.get(name)
    if value is None:
        _reject(missing)
    if not isinstance(value, str):
        _reject(not_a_string)
    return _check_characters(value)


def _optional_string(value: Any, not_a_string: Reason) -> str | None:
    """An optional string; null and the empty string are absent."""
    if value is None:
        return None
    if not isinstance(value, str):
        _reject(not_a_string)
    return _check_characters(value) or None


def _parse_text(value: Any) -> str | None:
    """The text; one that is only white space counts as absent."""
    text = _optional_string(value, Reason.TEXT_NOT_A_STRING)
    return text if text is not None and not text.isspace() else None


def _parse_time(value: Any) -> int:
    """An RFC 3339 timestamp with an offset as milliseconds since 1970; finer fractions are cut off."""
    if value is None:
        _reject(Reason.OCCURRED_AT_MISSING)
    try:
        # msgspec rounds digits beyond the sixth, which would move an event into the next second, hour or year.
        moment = msgspec.convert(_SUBMICROSECONDS.sub(r"\1", value), datetime) if isinstance(value, str) else None
    except msgspec.ValidationError:
        moment = None
    if moment is None or moment.tzinfo is None:
        _reject(Reason.OCCURRED_AT_INVALID)
    milliseconds = (moment - _EPOCH) // _MILLISECOND
    # The offset may move a time out of the years 1 to 9999, which no store can represent.
    if not _FIRST_MOMENT <= milliseconds <= _LAST_MOMENT:
        _reject(Reason.OCCURRED_AT_INVALID)
    return milliseconds


_SUBMICROSECONDS = re.compile(r"(\.\d{6})\d+")
_FIRST_MOMENT = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND
_LAST_MOMENT = (datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC) - _EPOCH) // _MILLISECOND


def _parse_number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        _reject(Reason.VALUE_NOT_A_NUMBER)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        _reject(Reason.VALUE_NOT_FINITE)
    return number + 0.0  # -0.0 equals 0.0, so both must have the same digest


def _parse_integer(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int):
        _reject(Reason.VERSION_NOT_AN_INTEGER)
    if not 0 <= value <= VERSION_MAX:
        _reject(Reason.VERSION_OUT_OF_RANGE)
    return value


def _encode_extra(fields: dict[str, Any]) -> str | None:
    if fields.keys() <= _FIELDS:
        return None
    unknown = {name: value for name, value in fields.items() if name not in _FIELDS and value is not None}
    if not unknown:
        return None
    _check_storable(unknown, _MAX_DEPTH)
    return encode_unknown(unknown)


def encode_unknown(fields: Mapping[str, Any]) -> str:
    """``Event.extra`` of these unknown fields."""
    return _CANONICAL.encode(fields).decode()


def _check_storable(value: Any, depth: int) -> None:
    """Reject values that some store cannot hold: NUL, lone surrogates, numbers beyond 64 bits, deep nesting."""
    if isinstance(value, str):
        _check_characters(value)
    elif (isinstance(value, float) and not math.isfinite(value)) or (
        isinstance(value, int) and not -(2**63) <= value < 2**63
    ):
        _reject(Reason.UNKNOWN_FIELDS_NOT_STORABLE)
    elif isinstance(value, dict | list):
        if depth == 0:
            _reject(Reason.UNKNOWN_FIELDS_NOT_STORABLE)
        members = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        for member in members:
            _check_storable(member, depth - 1)
