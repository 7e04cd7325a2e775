"""Rendering packed lists as JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.domain.recommendation_list import MAX_ITEMS, VERSION_BYTES, RecommendationList, pack, unpack
from include.serving.rendering import DECODE_ERRORS, build_body, render_list
from tests.unit.serving.lists import any_limit, any_list, pack_items, pack_raw, to_json_items

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Nested far deeper than any list.
NESTED = b"\x91" * 100_000


@given(any_list, any_limit, st.text(), st.booleans())
@settings(deadline=None)
def test_the_json_matches_the_unpacked_list(
    recommendations: RecommendationList, limit: int, user: str, partial: bool
) -> None:
    """For any list and limit the JSON has the first items, the source and the timestamp of the list, and no more."""
    packed = pack(recommendations)
    body = json.loads(build_body(user, render_list(packed, limit), partial))
    unpacked = unpack(packed)
    timestamp = datetime.fromisoformat(body.pop("generated_at"))
    assert (timestamp - EPOCH) // timedelta(milliseconds=1) == unpacked.generated_at
    assert body == {
        "user_id": user,
        "source": unpacked.source,
        "partial": partial,
        **({"missing": ["redis"]} if partial else {}),
        "items": to_json_items(unpacked, limit),
    }


def test_the_timestamp_is_rfc_3339() -> None:
    """The timestamp is in UTC with milliseconds and a Z."""
    packed = pack(RecommendationList(1_772_357_472_045, "popular", []))
    assert b'"generated_at":"2026-03-01T09:31:12.045Z"' in render_list(packed, 1).header


def test_items_beyond_the_limit_are_not_decoded() -> None:
    """A short response does not pay for the rest of the list, so it does not notice errors there."""
    packed = pack_raw([["a", 1.0, None, "popular", "r"], ["b"]])
    assert json.loads(render_list(packed, 1).items)[0]["item_id"] == "a"
    with pytest.raises(DECODE_ERRORS):
        render_list(packed, 2)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"1234567",
        bytes(VERSION_BYTES),
        pack_items("a")[:-1],
        pack_items("a")[VERSION_BYTES:],
        b"<html>not a list</html>",
        pack_raw([["a", "high", None, "popular", "r"]]),
        pack_raw([["a", 1.0, None, "popular"]]),
        bytes(VERSION_BYTES) + b"\x93\xcf" + b"\xff" * 8 + b"\xa1x\x90",  # a timestamp that is out of range
        bytes(VERSION_BYTES) + b"\x94\x01\xa1x\x90" + NESTED,
    ],
)
def test_bytes_that_are_not_a_list_are_rejected(value: bytes) -> None:
    """Bytes from another source raise an error that the reader handles."""
    with pytest.raises(DECODE_ERRORS):
        render_list(value, MAX_ITEMS)


@given(st.binary(max_size=60), any_list, st.integers(0, 400), any_limit)
@settings(deadline=None)
def test_corrupted_lists_are_rendered_or_rejected(
    patch: bytes, recommendations: RecommendationList, at: int, limit: int
) -> None:
    """A partly overwritten list gives JSON or an error that the reader handles, never any other error."""
    packed = bytearray(pack(recommendations))
    packed[at : at + len(patch)] = patch
    try:
        rendered = render_list(bytes(packed), limit)
    except DECODE_ERRORS:
        return
    assert len(json.loads(build_body("u", rendered, False))["items"]) <= limit
