"""Request parsing, and the error messages for invalid requests."""

from __future__ import annotations

from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.domain.recommendation_list import MAX_ITEMS
from include.serving.request import DEFAULT_LIMIT, USER_ID_MAX, InvalidRequestError, parse_limit, parse_user

any_user = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=USER_ID_MAX)


@given(any_user)
def test_any_user_id_can_be_percent_encoded(user_id: str) -> None:
    """Parsing a percent-encoded user id gives back the id as UTF-8 and as text."""
    assert parse_user(quote(user_id, safe="").encode()) == (user_id.encode(), user_id)


@given(any_user.filter(lambda user: "%" not in user))
def test_a_user_id_without_percent_signs_is_taken_literally(user_id: str) -> None:
    """Clients that do not percent-encode are understood as well."""
    assert parse_user(user_id.encode()) == (user_id.encode(), user_id)


def test_a_plus_sign_is_not_a_space() -> None:
    """A path is not a form: a plus sign is part of the user id."""
    assert parse_user(b"a+b%2Bc%20d") == (b"a+b+c d", "a+b+c d")


def test_the_length_limit_counts_characters() -> None:
    """A user id may have 128 characters, however many bytes each takes; one more is rejected with the count."""
    for character in "x", "ü", "用", "😀":
        segment = quote(character * USER_ID_MAX).encode()
        assert parse_user(segment)[1] == character * USER_ID_MAX
        with pytest.raises(InvalidRequestError, match="1 to 128 characters, not 129"):
            parse_user(segment + quote(character).encode())


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        (b"", "1 to 128 characters, not 0"),
        (b"a%00b", "NUL"),
        (b"a\0b", "NUL"),
        (b"%ff", "UTF-8"),
        (b"\xff", "UTF-8"),
        (b"a%C3", "UTF-8"),
        (b"%ED%A0%80", "UTF-8"),  # a lone surrogate
        (b"%C0%80", "UTF-8"),  # an overlong NUL
    ],
)
def test_an_invalid_user_id_is_rejected(segment: bytes, message: str) -> None:
    """Empty user ids, NUL and invalid UTF-8 are rejected with the reason."""
    with pytest.raises(InvalidRequestError, match=message):
        parse_user(segment)


@given(st.binary(max_size=200))
def test_any_segment_is_parsed_or_rejected(segment: bytes) -> None:
    """No path segment raises anything other than InvalidRequestError."""
    try:
        raw, user_id = parse_user(segment)
    except InvalidRequestError:
        return
    assert raw.decode() == user_id
    assert 0 < len(user_id) <= USER_ID_MAX
    assert "\0" not in user_id


@pytest.mark.parametrize("limit", [1, 2, DEFAULT_LIMIT, MAX_ITEMS - 1, MAX_ITEMS])
def test_a_limit_within_the_bounds_is_accepted(limit: int) -> None:
    """The limit may be 1 to 60, inclusive."""
    assert parse_limit(b"limit=%d" % limit) == limit


@pytest.mark.parametrize("query", [b"", b"page=2", b"limits=3", b"Limit=3", b"&", b"=", b"x=limit"])
def test_the_default_limit_is_ten(query: bytes) -> None:
    """Parameters not named ``limit`` are ignored."""
    assert parse_limit(query) == DEFAULT_LIMIT == 10


@pytest.mark.parametrize(
    "value",
    ["0", "61", "-1", "+5", "abc", "", " 5", "5 ", "1.0", "1e1", "0x5", "00005", "9" * 5_000, "٣", "é", "\0", "5\n"],
)
def test_an_invalid_limit_is_rejected(value: str) -> None:
    """Anything but a single whole number from 1 to 60 is rejected, and the message names the bounds."""
    for encoded in quote(value), quote_plus(value):
        with pytest.raises(InvalidRequestError, match="a single whole number from 1 to 60"):
            parse_limit(b"limit=" + encoded.encode())


@pytest.mark.parametrize("query", [b"limit=5&limit=5", b"limit=5&x=1&limit=6", b"limit=&limit=5", b"limit=5&limit"])
def test_several_limits_are_rejected(query: bytes) -> None:
    """The reader does not guess which one is meant, even if they agree."""
    with pytest.raises(InvalidRequestError):
        parse_limit(query)


@pytest.mark.parametrize("other", [b"x=%C3%A9", b"x=%ff", b"x=\xff", b"%ff", b"x=\0", b"x=%", b"x==", b"&&"])
def test_other_parameters_may_contain_anything(other: bytes) -> None:
    """Other parameters do not affect the limit, even if they are not valid UTF-8."""
    assert parse_limit(other + b"&limit=7") == 7


@given(st.binary(max_size=60) | st.binary(max_size=20).map(b"limit=".__add__))
def test_any_query_is_parsed_or_rejected(query: bytes) -> None:
    """No query string raises anything other than InvalidRequestError."""
    try:
        assert 1 <= parse_limit(query) <= MAX_ITEMS
    except InvalidRequestError as exc:
        assert str(MAX_ITEMS) in str(exc)
