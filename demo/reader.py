"""Recommendations from the reader's HTTP API, as its users see them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import httpx
import msgspec

from include.errors import TransientError

LIST_LENGTH = 10


class Item(msgspec.Struct, frozen=True):
    """One recommended item."""

    item_id: str
    reason: str
    text: str | None = None


class _Response(msgspec.Struct, frozen=True):
    source: str
    items: list[Item]


@dataclass(frozen=True)
class UserRecommendations:
    """A user's recommendations, where they came from, and the items the user engaged with before."""

    user_id: str
    source: str
    items: Sequence[Item]
    history: Sequence[str]


def fetch_recommendations(client: httpx.Client, user_id: str) -> tuple[str, Sequence[Item]]:
    """Returns the source of a user's list and its first ten items. Raises ``TransientError`` if the request fails."""
    try:
        response = client.get(f"/v1/users/{quote(user_id, safe='')}/recommendations", params={"limit": LIST_LENGTH})
        response.raise_for_status()
        decoded = msgspec.json.decode(response.content, type=_Response)
    except (httpx.HTTPError, msgspec.MsgspecError) as exc:
        raise TransientError(f"the reader at {client.base_url} returned no list for {user_id!r}: {exc}") from exc
    return decoded.source, decoded.items


def choose_users(
    client: httpx.Client, candidates: Iterable[str], history: Callable[[str], Sequence[str]], count: int
) -> list[UserRecommendations]:
    """Choose ``count`` of the candidates, preferring those with a full list from similar users."""
    users = [UserRecommendations(user, *fetch_recommendations(client, user), history(user)) for user in candidates]
    users.sort(key=lambda user: (user.source != "similar_users", len(user.items) < LIST_LENGTH))
    return users[:count]
