"""The reader as its users see it: recommendations over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import httpx
import msgspec

from include.errors import TransientError

ITEMS = 10


class Item(msgspec.Struct, frozen=True):
    """One recommended item."""

    item_id: str
    reason: str
    text: str | None = None


class _Answer(msgspec.Struct, frozen=True):
    source: str
    items: list[Item]


@dataclass(frozen=True)
class Shown:
    """A user with what was recommended and what it rests on."""

    user_id: str
    source: str
    items: Sequence[Item]
    history: Sequence[str]


def recommendations(client: httpx.Client, user_id: str) -> tuple[str, Sequence[Item]]:
    """The source of a user's list and its first ten items. Raises ``TransientError`` when there is no answer."""
    try:
        answer = client.get(f"/v1/users/{quote(user_id, safe='')}/recommendations", params={"limit": ITEMS})
        answer.raise_for_status()
        decoded = msgspec.json.decode(answer.content, type=_Answer)
    except (httpx.HTTPError, msgspec.MsgspecError) as exc:
        raise TransientError(f"the reader at {client.base_url} has no list for {user_id!r}: {exc}") from exc
    return decoded.source, decoded.items


def chosen(
    client: httpx.Client, candidates: Iterable[str], history: Callable[[str], Sequence[str]], count: int
) -> list[Shown]:
    """``count`` of the candidates, those with a full list from similar users first."""
    shown = [Shown(user, *recommendations(client, user), history(user)) for user in candidates]
    shown.sort(key=lambda entry: (entry.source != "similar_users", len(entry.items) < ITEMS))
    return shown[:count]
