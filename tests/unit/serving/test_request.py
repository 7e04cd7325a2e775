"""What a request asks for, and what is said to a wrong one."""

from __future__ import annotations

from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.domain.recommendation_list import MAX_ITEMS
from include.serving.request import DEFAULT_LIMIT, USER_ID_MAX, InvalidRequestError, limit_of, user_of

any_user = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=USER_ID_MAX)


@given(any_user)
def test_any_user_is_found_percent_encoded(user_id: str) -> None:
    """Whatever a user is called, its percent-encoded name gives it back as UTF-8 and as text."""
    assert user_of(quote(user_id, safe="").encode()) == (user_id.encode(), user_id)


@given(any_user.filter(lambda user: "%" not in user))
def test_a_name_without_a_percent_sign_is_taken_as_it_is(user_id: str) -> None:
    """A client that encodes nothing is understood as well."""
    assert user_of(user_id.encode()) == (user_id.encode(), user_id)


def test_a_plus_is_no_space() -> None:
    """A path is not a form: a plus sign belongs to the name."""
    assert user_of(b"a+b%2Bc%20d") == (b"a+b+c d", "a+b+c d")


def test_128_characters_are_counted_not_bytes() -> None:
    """The longest name has 128 characters, however many bytes each takes; one more is refused and told so."""
    for sign in "x", "ü", "用", "😀":
        segment = quote(sign * USER_ID_MAX).encode()
        assert user_of(segment)[1] == sign * USER_ID_MAX
        with pytest.raises(InvalidRequestError, match="1 to 128 characters, not 129"):
            user_of(segment + quote(sign).encode())


@pytest.mark.parametrize(
    ("segment", "says"),
    [
        (b"", "1 to 128 characters, not 0"),
        (b"a%00b", "NUL"),
        (b"a\0b", "NUL"),
        (b"%ff", "UTF-8"),
        (b"\xff", "UTF-8"),
        (b"a%C3", "UTF-8"),
        (b"%ED%A0%80", "UTF-8"),  # a lone surrogate
        (b"%C0%80", "UTF-8"),  # NUL, overlong
    ],
)
def test_a_user_that_cannot_be_is_refused(segment: bytes, says: str) -> None:
    """No name, NUL, and what is no UTF-8 are refused with the reason."""
    with pytest.raises(InvalidRequestError, match=says):
        user_of(segment)


@given(st.binary(max_size=200))
def test_any_segment_gives_a_user_or_is_refused(segment: bytes) -> None:
    """No bytes of a path raise anything but a refusal."""
    try:
        raw, user_id = user_of(segment)
    except InvalidRequestError:
        return
    assert raw.decode() == user_id
    assert 0 < len(user_id) <= USER_ID_MAX
    assert "\0" not in user_id


@pytest.mark.parametrize("limit", [1, 2, DEFAULT_LIMIT, MAX_ITEMS - 1, MAX_ITEMS])
def test_a_limit_within_the_bounds_is_taken(limit: int) -> None:
    """1 to 60, both included."""
    assert limit_of(b"limit=%d" % limit) == limit


@pytest.mark.parametrize("query", [b"", b"page=2", b"limits=3", b"Limit=3", b"&", b"=", b"x=limit"])
def test_without_a_limit_there_are_ten(query: bytes) -> None:
    """What is not called ``limit`` is passed over."""
    assert limit_of(query) == DEFAULT_LIMIT == 10


@pytest.mark.parametrize(
    "value",
    ["0", "61", "-1", "+5", "abc", "", " 5", "5 ", "1.0", "1e1", "0x5", "00005", "9" * 5_000, "٣", "é", "\0", "5\n"],
)
def test_a_limit_that_is_none_is_refused(value: str) -> None:
    """Anything but one whole number from 1 to 60 is refused, and the message names the bounds."""
    for encoded in quote(value), quote_plus(value):
        with pytest.raises(InvalidRequestError, match="one whole number from 1 to 60"):
            limit_of(b"limit=" + encoded.encode())


@pytest.mark.parametrize("query", [b"limit=5&limit=5", b"limit=5&x=1&limit=6", b"limit=&limit=5", b"limit=5&limit"])
def test_two_limits_are_refused(query: bytes) -> None:
    """Which one is meant is not guessed, also if they agree."""
    with pytest.raises(InvalidRequestError):
        limit_of(query)


@pytest.mark.parametrize("other", [b"x=%C3%A9", b"x=%ff", b"x=\xff", b"%ff", b"x=\0", b"x=%", b"x==", b"&&"])
def test_other_parameters_may_be_anything(other: bytes) -> None:
    """What others add to the query, be it no UTF-8, does not stand in the limit's way."""
    assert limit_of(other + b"&limit=7") == 7


@given(st.binary(max_size=60) | st.binary(max_size=20).map(b"limit=".__add__))
def test_any_query_gives_a_limit_or_is_refused(query: bytes) -> None:
    """No bytes of a query raise anything but a refusal."""
    try:
        assert 1 <= limit_of(query) <= MAX_ITEMS
    except InvalidRequestError as exc:
        assert str(MAX_ITEMS) in str(exc)
