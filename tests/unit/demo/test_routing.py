"""Choosing the shard of a line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.routing import Route, Router
from include.domain.event import InvalidEventError, decode
from include.domain.identity import shard_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.text(), st.integers(0, 10**9), st.integers(1, 200))
def test_a_user_has_one_shard(user: str, number: int, shards: int) -> None:
    """Lines with a user go to the partition that Java clients choose, with the user as key, whatever their number."""
    line = json.dumps({"kind": "view", "user_id": user}).encode()
    assert Router(shards).route(line, number) == Route(shard_of(user, shards), user.encode())


@pytest.mark.parametrize(
    "line",
    [b"", b" ", b"nonsense", b"[1]", b'"user_id"', b"{}", b'{"user_id":null}', b'{"user_id":7}', b'{"user_id":["a"]}',
     b'{"user_id":"\\ud800"}', b'{"user_id":"caf\xe9"}', b'{"user_id":"a"', b"\xff\xfe{\x00}\x00", b"[" * 5000],
)  # fmt: skip
def test_a_line_without_a_user_is_routed_by_number(line: bytes) -> None:
    """Lines without a readable user are spread evenly, without a key."""
    assert [Router(4).route(line, number) for number in range(6)] == [Route(n % 4, None) for n in range(6)]


@given(st.dictionaries(st.sampled_from(["user_id", "kind", "x", "\ud800"]), JSON))
def test_every_event_goes_to_its_user(fields: dict[str, object]) -> None:
    """A valid event goes to the shard of its user, whatever else the line contains."""
    fields |= {"message_id": "m", "kind": "view", "occurred_at": "2026-01-01T00:00:00Z"}
    line = json.dumps(fields).encode()
    try:
        event = decode(line)
    except InvalidEventError:
        return
    assert Router(16).route(line, 3) == Route(shard_of(event.user_id, 16), event.user_id.encode())


@pytest.mark.parametrize(
    "line", [b'{"user_id":"a","user_id":"b"}', b'{"user_id":1,"user_id":"b"}', b'{"user_id":"b","x":NaN}']
)
def test_the_router_reads_odd_json_like_the_decoder(line: bytes) -> None:
    """If a key occurs twice, the last value counts, as it does when the event is decoded."""
    assert Router(4).route(line, 0).key == b"b"
