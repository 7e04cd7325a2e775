"""What the reader knows without Redis: the generation, the popular list, and the lists it served lately."""

from __future__ import annotations

from include.domain.recommendation_list import MAX_ITEMS, list_key
from include.serving.answers import UNREADABLE, Answer, render

#: Lists kept of those served lately; with their answers some 8 MB.
MOST_RECENT = 1_000


class Popular:
    """The last good popular list, rendered once for each limit."""

    def __init__(self) -> None:
        self._packed: bytes | None = None
        self._answers: dict[int, Answer] = {}

    def take(self, packed: bytes) -> bool:
        """Serve this list from now on; False, and the former stays, if it cannot be read."""
        if packed == self._packed:
            return True
        try:
            render(packed, MAX_ITEMS)  # all of it: an item beyond the first may be the one that is unreadable
        except UNREADABLE:
            return False
        self._packed, self._answers = packed, {}
        return True

    def answer(self, limit: int) -> Answer | None:
        """The first items of it; None if there never was one."""
        if self._packed is None:
            return None
        made = self._answers.get(limit)
        if made is None:
            made = self._answers[limit] = render(self._packed, limit)
        return made


class Recent:
    """The lists served lately, by user, with the answer made of each: an unchanged list is not rendered again."""

    def __init__(self, most: int = MOST_RECENT) -> None:
        self._most = most
        self._kept: dict[bytes, tuple[bytes, int, Answer]] = {}

    def answer(self, user: bytes, packed: bytes, limit: int) -> Answer:
        """The first items of ``packed``, which becomes the user's last good list. Raises one of ``UNREADABLE``."""
        kept = self._kept.get(user)
        if kept is not None and kept[1] == limit and kept[0] == packed:
            return kept[2]
        made = render(packed, limit)
        if kept is None and len(self._kept) >= self._most:
            del self._kept[next(iter(self._kept))]
        self._kept[user] = (packed, limit, made)
        return made

    def last_good(self, user: bytes, limit: int) -> Answer | None:
        """The first items of the list that this user was served last, if it is still known."""
        kept = self._kept.get(user)
        if kept is None:
            return None
        if kept[1] == limit:
            return kept[2]
        try:
            return render(kept[0], limit)
        except UNREADABLE:  # beyond the items that were served
            return None


class Memory:
    """Both, and the generation whose lists are read: None until one was published."""

    def __init__(self) -> None:
        self.popular = Popular()
        self.recent = Recent()
        self.generation: str | None = None
        self.key_prefix = b""

    def serve(self, generation: str) -> None:
        """Read the lists of this generation from now on."""
        self.generation = generation
        self.key_prefix = list_key(generation, "")
