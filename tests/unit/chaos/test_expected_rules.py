"""The checker's own reading of a message agrees with the pipeline's, which is written independently."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo.malformed import MALFORMED
from demo.recount import find_broken_rule
from include.domain.event import InvalidEventError, decode
from tests.chaos.expected_rules import ExpectedEvent, read_message

PUBLISHED_AT = 1_600_000_000_000
VALID: dict[str, Any] = {
    "user_id": "u",
    "message_id": "m",
    "kind": "view",
    "occurred_at": "2020-01-01T00:00:00Z",
    "text": "a",
    "item_id": "i",
}

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**400, -1]),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["", " ", "\u00a0", "\x00", "\ud800", "é", "x" * 128, "x" * 129, "𝄞" * 128, "x" * 257]),
)
values = st.recursive(
    scalars, lambda members: st.lists(members, max_size=2) | st.dictionaries(st.text(max_size=3), members, max_size=3)
)
DATE, CLOCK = r"[0-9]{4}-[01][0-9]-[0-3][0-9]", r"[012][0-9]:[0-6][0-9]:[0-6][0-9]"
ZONE = r"([Zz]|[+-][0-2][0-9]:?[0-9]{2})"
times = st.one_of(
    st.datetimes().map(lambda moment: f"{moment.isoformat()}Z"),
    st.from_regex(rf"\A{DATE}[Tt _]{CLOCK}(\.[0-9]{{0,9}})?{ZONE}?\Z"),
    st.sampled_from(["0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59.9999999Z", "9999-12-31T23:59:59-00:01"]),
)
fields = st.one_of(
    st.fixed_dictionaries({}, optional=dict.fromkeys(["value", "version", "campaign_id", "$a.b", "other"], values)).map(
        lambda changes: {**VALID, **changes}
    ),
    st.sampled_from([*VALID, "value", "version"]).flatmap(
        lambda name: values.map(lambda value: {**VALID, name: value})
    ),
    times.map(lambda time: {**VALID, "occurred_at": time}),
    st.sets(st.sampled_from(sorted(VALID))).map(lambda gone: {name: VALID[name] for name in VALID if name not in gone}),
)
payloads = st.one_of(
    fields.map(lambda message: json.dumps(message).encode()),
    fields.map(lambda message: json.dumps(message, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")),
    st.tuples(fields, st.integers(0, 60), st.binary(max_size=2)).map(lambda parts: _cut(*parts)),
    st.binary(max_size=20),
    st.text(string.printable, max_size=20).map(str.encode),
)


def _cut(message: dict[str, Any], at: int, inserted: bytes) -> bytes:
    payload = json.dumps(message).encode()
    return payload[:at] + inserted + payload[at + len(inserted) :]


def read_with_the_pipeline(payload: bytes) -> ExpectedEvent | str:
    """The pipeline's own verdict in the checker's form."""
    try:
        event = decode(payload)
    except InvalidEventError as error:
        return error.reason.value
    reason = find_broken_rule(event, PUBLISHED_AT)
    if reason is not None:
        return reason.value
    return ExpectedEvent(**{name: getattr(event, name) for name in ExpectedEvent._fields})


@settings(max_examples=600, deadline=None)
@given(payloads)
def test_both_readings_agree(payload: bytes) -> None:
    """Any message has the same event, digests included, or the same reason in both."""
    assert read_message(payload, PUBLISHED_AT) == read_with_the_pipeline(payload)


@pytest.mark.parametrize("reason", MALFORMED)
def test_the_malformed_lines_of_the_demo_have_their_reason(reason: str) -> None:
    """Each kind of malformed line is refused with its reason."""
    assert read_message(MALFORMED[reason](VALID), PUBLISHED_AT) == reason  # type: ignore[index]


@pytest.mark.parametrize(("levels", "is_valid"), [(32, True), (33, False)])
def test_unknown_fields_may_be_nested_32_levels_deep(levels: int, is_valid: bool) -> None:
    """The object of unknown fields is the first level."""
    nested: Any = 1
    for _ in range(levels - 1):
        nested = [nested]
    payload = json.dumps({**VALID, "deep": nested}).encode()
    verdict = read_message(payload, PUBLISHED_AT)
    assert isinstance(verdict, ExpectedEvent) == is_valid
    assert verdict == read_with_the_pipeline(payload)
