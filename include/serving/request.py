"""Request parsing: the user and the limit, or what is wrong with them."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import parse_qsl, unquote_to_bytes

from include.domain.recommendation_list import MAX_ITEMS

USER_ID_MAX = 128
DEFAULT_LIMIT = 10


class InvalidRequestError(Exception):
    """The message is shown to the client."""


def parse_user(segment: bytes) -> tuple[bytes, str]:
    """Parse the user id in a path segment, as UTF-8 bytes and as text. Raises ``InvalidRequestError``."""
    raw = unquote_to_bytes(segment) if b"%" in segment else segment
    try:
        user_id = raw.decode()
    except UnicodeDecodeError:
        raise InvalidRequestError("the user id must be percent-encoded UTF-8") from None
    if not 0 < len(user_id) <= USER_ID_MAX:
        raise InvalidRequestError(f"the user id must have 1 to {USER_ID_MAX} characters, not {len(user_id)}")
    if "\0" in user_id:
        # No event can have such a user id, and the recent readers end up in stores that cannot hold it.
        raise InvalidRequestError("the user id must not contain NUL")
    return raw, user_id


@lru_cache(maxsize=128)
def parse_limit(query: bytes) -> int:
    """Parse ``limit`` from a query string, ignoring other parameters. Raises ``InvalidRequestError``."""
    if not query:
        return DEFAULT_LIMIT
    # Decoded first: given bytes, parse_qsl accepts only ASCII, but other parameters may contain anything.
    values = [value for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True) if name == "limit"]
    if not values:
        return DEFAULT_LIMIT
    if len(values) > 1 or not _is_number(values[0]) or not 1 <= int(values[0]) <= MAX_ITEMS:
        raise InvalidRequestError(f"limit must be a single whole number from 1 to {MAX_ITEMS}")
    return int(values[0])


def _is_number(value: str) -> bool:
    return value.isascii() and value.isdigit() and len(value) <= 4
