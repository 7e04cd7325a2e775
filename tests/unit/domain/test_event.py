"""Decoding: every message is either an event or is rejected with the reason of the first rule that fails."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.domain.event import Event, InvalidEventError, decode
from include.domain.reasons import Reason

VALID: dict[str, Any] = {
    "user_id": "u1",
    "message_id": "m1",
    "kind": "purchase",
    "occurred_at": "2010-12-01T08:26:00Z",
    "item_id": "85123A",
}


def message(**changes: Any) -> bytes:
    """A valid event as JSON, with these fields changed; a field set to ... is left out."""
    fields = {name: value for name, value in {**VALID, **changes}.items() if value is not ...}
    return json.dumps(fields).encode()


def reason_of(payload: bytes | None) -> Reason:
    with pytest.raises(InvalidEventError) as caught:
        decode(payload)
    return caught.value.reason


def test_a_full_event_is_decoded_field_by_field() -> None:
    """Every known field is decoded as it was sent; the time becomes milliseconds since 1970, UTC."""
    event = decode(message(text="hello", campaign_id="c", value=1.5, version=3, colour="red"))
    assert event == Event("u1", "m1", "purchase", 1291191960000, "hello", "85123A", "c", 1.5, 3, '{"colour":"red"}')


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (None, Reason.EMPTY_MESSAGE),
        (b"", Reason.EMPTY_MESSAGE),
        (b'{"user_id": "\xff"}', Reason.INVALID_UTF8),
        (b"{", Reason.INVALID_JSON),
        (b"[" * 100_000, Reason.INVALID_JSON),
        (b"[1]", Reason.NOT_AN_OBJECT),
        (b"null", Reason.NOT_AN_OBJECT),
        (message(user_id=...), Reason.USER_ID_MISSING),
        (message(user_id=None), Reason.USER_ID_MISSING),
        (message(user_id=17850), Reason.USER_ID_NOT_A_STRING),
        (message(user_id={"$ne": ""}), Reason.USER_ID_NOT_A_STRING),
        (message(message_id=None), Reason.MESSAGE_ID_MISSING),
        (message(message_id=["a"]), Reason.MESSAGE_ID_NOT_A_STRING),
        (message(kind=...), Reason.KIND_MISSING),
        (message(kind=1), Reason.KIND_NOT_A_STRING),
        (message(occurred_at=...), Reason.OCCURRED_AT_MISSING),
        (message(occurred_at=1291191960), Reason.OCCURRED_AT_INVALID),
        (message(occurred_at="2010-12-01"), Reason.OCCURRED_AT_INVALID),
        (message(occurred_at="2010-12-01T08:26:00"), Reason.OCCURRED_AT_INVALID),
        (message(occurred_at="0001-01-01T00:00:00+01:00"), Reason.OCCURRED_AT_INVALID),
        (message(occurred_at="9999-12-31T23:59:59-01:00"), Reason.OCCURRED_AT_INVALID),
        (message(text=5), Reason.TEXT_NOT_A_STRING),
        (message(item_id=5), Reason.ITEM_ID_NOT_A_STRING),
        (message(campaign_id=5), Reason.CAMPAIGN_ID_NOT_A_STRING),
        (message(value="15.3"), Reason.VALUE_NOT_A_NUMBER),
        (message(value=True), Reason.VALUE_NOT_A_NUMBER),
        (message(value=float("nan")), Reason.VALUE_NOT_FINITE),
        (message(value=10**400), Reason.VALUE_NOT_FINITE),
        (message().replace(b'"u1"', b'"u1", "value": 1e400'), Reason.VALUE_NOT_FINITE),
        (message(version=1.0), Reason.VERSION_NOT_AN_INTEGER),
        (message(version=True), Reason.VERSION_NOT_AN_INTEGER),
        (message(version=-1), Reason.VERSION_OUT_OF_RANGE),
        (message(version=2**63), Reason.VERSION_OUT_OF_RANGE),
        (message(text="a\x00b"), Reason.FORBIDDEN_CHARACTERS),
        (message(user_id="\ud800"), Reason.FORBIDDEN_CHARACTERS),
        (message(note={"deep": ["a\x00"]}), Reason.FORBIDDEN_CHARACTERS),
        (message(note=2**70), Reason.UNKNOWN_FIELDS_NOT_STORABLE),
        (message(note=float("inf")), Reason.UNKNOWN_FIELDS_NOT_STORABLE),
    ],
)
def test_each_rule_has_its_own_reason(payload: bytes | None, reason: Reason) -> None:
    """A message that breaks a rule is rejected with the reason of that rule."""
    assert reason_of(payload) == reason


def test_deeply_nested_fields_are_rejected() -> None:
    """Nesting that is too deep for a store is rejected, not truncated."""
    nested: Any = 1
    for _ in range(40):
        nested = [nested]
    assert reason_of(message(note=nested)) == Reason.UNKNOWN_FIELDS_NOT_STORABLE


def test_the_user_is_checked_first() -> None:
    """When several rules fail, the one about the user gives the reason."""
    assert reason_of(message(user_id=None, message_id=None, kind=1, value="x")) == Reason.USER_ID_MISSING


@pytest.mark.parametrize(
    "absent", [{"text": None}, {"text": ""}, {"text": "  \n"}, {"campaign_id": ""}, {"value": None}]
)
def test_null_and_empty_are_absent(absent: dict[str, Any]) -> None:
    """A null, an empty optional string and a blank text count as absent."""
    assert decode(message(**absent)) == decode(message())
    assert decode(message(**absent)).digest == decode(message()).digest


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00.001z", 1),
        ("1970-01-01T00:00:00.0019Z", 1),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:59:59.999Z", -1),
        ("1970-01-01T00:00:00.9999999Z", 999),
        ("1969-12-31T23:59:59.999999999+00:00", -1),
    ],
)
def test_times_are_truncated_to_milliseconds(text: str, milliseconds: int) -> None:
    """An RFC 3339 timestamp with any offset becomes UTC milliseconds; finer fractions are cut off."""
    assert decode(message(occurred_at=text)).occurred_at == milliseconds


def test_unknown_kinds_and_fields_are_accepted() -> None:
    """An event with an unknown kind and unknown fields is valid, and keeps both."""
    event = decode(message(kind="zoomed", a={"$b.c": [1, None]}))
    assert (event.kind, event.extra) == ("zoomed", '{"a":{"$b.c":[1,null]}}')


def test_the_digest_does_not_depend_on_the_formatting() -> None:
    """The order of fields, white space, escapes and the offset of the time do not change the digest."""
    reformatted = b"""{ "occurred_at":"2010-12-01T09:26:00.000+01:00", "item_id": "85123A", "kind":"purchase",
        "message_id":"\\u006d1", "user_id":"u1" }"""
    assert decode(reformatted).digest == decode(message()).digest


@given(
    st.binary(max_size=200) | st.text(max_size=100).map(lambda text: json.dumps({**VALID, "user_id": text}).encode())
)
def test_any_bytes_give_an_event_or_a_reason(payload: bytes) -> None:
    """Decoding any bytes either returns an event or raises InvalidEventError."""
    try:
        assert isinstance(decode(payload), Event)
    except InvalidEventError as error:
        assert error.reason in Reason


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*VALID, "text", "campaign_id", "value", "version", "other"]), json_values))
def test_any_fields_give_an_event_or_a_reason(changes: dict[str, Any]) -> None:
    """Any values in the fields give an event or a reason, and decoding twice gives the same result."""
    payload = json.dumps({**VALID, **changes}).encode()
    try:
        first = decode(payload)
    except InvalidEventError as error:
        assert reason_of(payload) == error.reason
    else:
        assert decode(payload).digest == first.digest
        "".join(part for part in (first.user_id, first.text or "", first.extra or "")).encode()
