"""What the reader can serve without Redis: the popular list and the lists it served recently."""

from __future__ import annotations

from include.domain.recommendation_list import MAX_ITEMS, list_key
from include.serving.rendering import DECODE_ERRORS, RenderedList, render_list

#: The number of recently served lists to cache; with their JSON they take about 8 MB.
MAX_RECENT_LISTS = 1_000


class PopularCache:
    """The last valid popular list, rendered once per limit."""

    def __init__(self) -> None:
        self._packed: bytes | None = None
        self._rendered: dict[int, RenderedList] = {}

    def replace(self, packed: bytes) -> bool:
        """Serve this list from now on. Returns False, and keeps the current list, if it cannot be decoded."""
        if packed == self._packed:
            return True
        try:
            render_list(packed, MAX_ITEMS)  # every item: the first few may decode although a later one does not
        except DECODE_ERRORS:
            return False
        self._packed, self._rendered = packed, {}
        return True

    def render(self, limit: int) -> RenderedList | None:
        """Render the first ``limit`` items; None if no popular list has been read yet."""
        if self._packed is None:
            return None
        rendered = self._rendered.get(limit)
        if rendered is None:
            rendered = self._rendered[limit] = render_list(self._packed, limit)
        return rendered


class RecentLists:
    """The lists served recently, by user, with their JSON: an unchanged list is not rendered again."""

    def __init__(self, max_lists: int = MAX_RECENT_LISTS) -> None:
        self._max_lists = max_lists
        self._entries: dict[bytes, tuple[bytes, int, RenderedList]] = {}

    def render(self, user: bytes, packed: bytes, limit: int) -> RenderedList:
        """Render the first ``limit`` items and cache the list as the user's last valid one.

        Raises one of ``DECODE_ERRORS``.
        """
        entry = self._entries.get(user)
        if entry is not None and entry[1] == limit and entry[0] == packed:
            return entry[2]
        rendered = render_list(packed, limit)
        if entry is None and len(self._entries) >= self._max_lists:
            del self._entries[next(iter(self._entries))]
        self._entries[user] = (packed, limit, rendered)
        return rendered

    def render_last_valid(self, user: bytes, limit: int) -> RenderedList | None:
        """Render the list that was last served to this user, if it is still in the cache."""
        entry = self._entries.get(user)
        if entry is None:
            return None
        if entry[1] == limit:
            return entry[2]
        try:
            return render_list(entry[0], limit)
        except DECODE_ERRORS:  # in an item beyond those that were served
            return None


class ListCache:
    """Both caches, and the generation that is served: None until the first one is published."""

    def __init__(self) -> None:
        self.popular = PopularCache()
        self.recent = RecentLists()
        self.generation: str | None = None
        self.key_prefix = b""

    def set_generation(self, generation: str) -> None:
        """Serve this generation's lists from now on."""
        self.generation = generation
        self.key_prefix = list_key(generation, "")
