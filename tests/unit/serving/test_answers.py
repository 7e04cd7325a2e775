"""Packed lists into JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.domain.recommendation_list import MAX_ITEMS, VERSION_BYTES, RecommendationList, pack, unpack
from include.serving.answers import UNREADABLE, body, render
from tests.unit.serving.lists import any_limit, any_list, foreign, packed, shown

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Deeper than anybody packs.
NESTED = b"\x91" * 100_000


@given(any_list, any_limit, st.text(), st.booleans())
@settings(deadline=None)
def test_an_answer_says_what_unpacking_gives(made: RecommendationList, limit: int, user: str, partial: bool) -> None:
    """For any list and limit the JSON has the list's first items, its source and its moment, and nothing else."""
    data = pack(made)
    found = json.loads(body(user, render(data, limit), partial))
    unpacked = unpack(data)
    moment = datetime.fromisoformat(found.pop("generated_at"))
    assert (moment - EPOCH) // timedelta(milliseconds=1) == unpacked.generated_at
    assert found == {
        "user_id": user,
        "source": unpacked.source,
        "partial": partial,
        **({"missing": ["redis"]} if partial else {}),
        "items": shown(unpacked, limit),
    }


def test_the_moment_is_rfc_3339() -> None:
    """Milliseconds, UTC, with a Z."""
    data = pack(RecommendationList(1_772_357_472_045, "popular", []))
    assert b'"generated_at":"2026-03-01T09:31:12.045Z"' in render(data, 1).opening


def test_items_beyond_the_limit_are_not_even_read() -> None:
    """A short answer does not pay for the rest of the list, so it does not see what is wrong there."""
    data = foreign([["a", 1.0, None, "popular", "r"], ["b"]])
    assert json.loads(render(data, 1).items)[0]["item_id"] == "a"
    with pytest.raises(UNREADABLE):
        render(data, 2)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        bytes(VERSION_BYTES),
        packed("a")[:-1],
        packed("a")[VERSION_BYTES:],
        b"<html>not a list</html>",
        foreign([["a", "high", None, "popular", "r"]]),
        foreign([["a", 1.0, None, "popular"]]),
        bytes(VERSION_BYTES) + b"\x93\xcf" + b"\xff" * 8 + b"\xa1x\x90",  # a moment after all time
        bytes(VERSION_BYTES) + b"\x94\x01\xa1x\x90" + NESTED,
    ],
)
def test_what_is_no_list_is_unreadable(data: bytes) -> None:
    """Bytes of another hand are refused by an error that the reader expects."""
    with pytest.raises(UNREADABLE):
        render(data, MAX_ITEMS)


@given(st.binary(max_size=60), any_list, st.integers(0, 400), any_limit)
@settings(deadline=None)
def test_any_bytes_are_a_list_or_unreadable(patch: bytes, made: RecommendationList, at: int, limit: int) -> None:
    """A list that was written over somewhere gives JSON or an error that the reader expects, never another one."""
    data = bytearray(pack(made))
    data[at : at + len(patch)] = patch
    try:
        answer = render(bytes(data), limit)
    except UNREADABLE:
        return
    assert len(json.loads(body("u", answer, False))["items"]) <= limit
