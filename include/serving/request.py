"""What a request asks for: the user and the number of items, or what is wrong with them."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import parse_qsl, unquote_to_bytes

from include.domain.recommendation_list import MAX_ITEMS

USER_ID_MAX = 128
DEFAULT_LIMIT = 10


class InvalidRequestError(Exception):
    """The message is for the caller."""


def user_of(segment: bytes) -> tuple[bytes, str]:
    """The user in a path's segment, as UTF-8 and as text. Raises ``InvalidRequestError``."""
    raw = unquote_to_bytes(segment) if b"%" in segment else segment
    try:
        user_id = raw.decode()
    except UnicodeDecodeError:
        raise InvalidRequestError("the user id must be UTF-8, percent-encoded") from None
    if not 0 < len(user_id) <= USER_ID_MAX:
        raise InvalidRequestError(f"the user id must have 1 to {USER_ID_MAX} characters, not {len(user_id)}")
    if "\0" in user_id:
        # No event may have such a user, and who asks is told to stores that could not keep it.
        raise InvalidRequestError("the user id must not contain NUL")
    return raw, user_id


@lru_cache(maxsize=128)
def limit_of(query: bytes) -> int:
    """``limit`` in a query string. Raises ``InvalidRequestError``. Other parameters are passed over."""
    if not query:
        return DEFAULT_LIMIT
    # as text: of bytes, parse_qsl takes ASCII only, and another parameter may have anything
    values = [value for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True) if name == "limit"]
    if not values:
        return DEFAULT_LIMIT
    if len(values) > 1 or not _is_number(values[0]) or not 1 <= int(values[0]) <= MAX_ITEMS:
        raise InvalidRequestError(f"limit must be one whole number from 1 to {MAX_ITEMS}")
    return int(values[0])


def _is_number(value: str) -> bool:
    return value.isascii() and value.isdigit() and len(value) <= 4
