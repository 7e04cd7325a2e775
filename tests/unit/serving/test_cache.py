"""What the reader can serve without Redis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.domain.recommendation_list import list_key
from include.serving.cache import ListCache, PopularCache, RecentLists
from include.serving.rendering import DECODE_ERRORS, RenderedList
from tests.unit.serving.lists import get_item_ids, pack_items, pack_raw

VALID_ITEM = ["a", 1.0, None, "popular", "r"]
UNREADABLE_LISTS = [b"", b"not a list at all", pack_items("a")[:-1], pack_raw([VALID_ITEM, ["b"]])]


def item_ids(rendered: RenderedList | None) -> list[str]:
    """The item ids of a list, which must exist."""
    assert rendered is not None
    return get_item_ids(rendered.items)


class TestPopularCache:
    """The popular list."""

    def test_it_starts_empty(self) -> None:
        """Until a list is read there is nothing to render."""
        assert PopularCache().render(10) is None

    def test_it_is_cut_to_each_limit(self) -> None:
        """Each request gets as many items as it asks for, or all there are, whatever was requested before."""
        popular = PopularCache()
        assert popular.replace(pack_items("a", "b", "c"))
        assert [item_ids(popular.render(limit)) for limit in (2, 1, 60, 2)] == [
            ["a", "b"],
            ["a"],
            ["a", "b", "c"],
            ["a", "b"],
        ]

    def test_a_new_list_replaces_the_old_one_at_every_limit(self) -> None:
        """JSON of the old list is never served once a new one is in place."""
        popular = PopularCache()
        popular.replace(pack_items("a", "b"))
        assert item_ids(popular.render(1)) == ["a"]
        assert popular.replace(pack_items("c", "d"))
        assert item_ids(popular.render(1)) == ["c"]
        assert item_ids(popular.render(2)) == ["c", "d"]

    @pytest.mark.parametrize("value", UNREADABLE_LISTS)
    def test_an_unreadable_list_is_rejected(self, value: bytes) -> None:
        """If any item cannot be decoded, the list is rejected and the current one remains."""
        popular = PopularCache()
        assert not popular.replace(value)
        assert popular.render(1) is None
        popular.replace(pack_items("a", "b"))
        assert not popular.replace(value)
        assert item_ids(popular.render(60)) == ["a", "b"]


class TestRecentLists:
    """The lists served recently."""

    def test_the_last_list_is_available_at_any_limit(self) -> None:
        """The list last served to a user can be rendered with more or fewer items."""
        recent = RecentLists()
        assert item_ids(recent.render(b"u", pack_items("a", "b", "c"), 2)) == ["a", "b"]
        rendered = [item_ids(recent.render_last_valid(b"u", limit)) for limit in (1, 2, 3)]
        assert rendered == [["a"], ["a", "b"], ["a", "b", "c"]]
        assert recent.render_last_valid(b"other", 2) is None

    def test_a_changed_list_or_limit_is_rendered_again(self) -> None:
        """Cached JSON is only reused for the same bytes and the same limit."""
        recent = RecentLists()
        first = recent.render(b"u", pack_items("a", "b"), 2)
        assert recent.render(b"u", pack_items("a", "b"), 2) is first
        assert item_ids(recent.render(b"u", pack_items("a", "b"), 1)) == ["a"]
        assert item_ids(recent.render(b"u", pack_items("c", "d"), 1)) == ["c"]
        assert item_ids(recent.render_last_valid(b"u", 2)) == ["c", "d"]

    @pytest.mark.parametrize("value", UNREADABLE_LISTS)
    def test_an_unreadable_list_does_not_replace_the_last_valid_one(self, value: bytes) -> None:
        """It is rejected, and nothing of it is cached."""
        recent = RecentLists()
        recent.render(b"u", pack_items("a"), 10)
        with pytest.raises(DECODE_ERRORS):
            recent.render(b"u", value, 10)
        assert item_ids(recent.render_last_valid(b"u", 10)) == ["a"]

    def test_items_that_were_never_served_may_be_unreadable(self) -> None:
        """A list that is valid only up to the items served cannot be used for a request that wants more."""
        recent = RecentLists()
        recent.render(b"u", pack_raw([VALID_ITEM, ["b"]]), 1)
        assert item_ids(recent.render_last_valid(b"u", 1)) == ["a"]
        assert recent.render_last_valid(b"u", 2) is None

    @given(st.lists(st.integers(0, 9), max_size=40))
    def test_it_is_bounded(self, users: list[int]) -> None:
        """However many users send requests, the size stays within the limit, and the latest user is cached."""
        recent = RecentLists(max_lists=3)
        for user in users:
            recent.render(b"%d" % user, pack_items(f"item-{user}"), 1)
            assert item_ids(recent.render_last_valid(b"%d" % user, 1)) == [f"item-{user}"]
        cached = [user for user in range(10) if recent.render_last_valid(b"%d" % user, 1)]
        assert len(cached) == min(3, len(set(users)))

    def test_each_user_takes_one_place(self) -> None:
        """A user with many requests or frequently changing lists evicts nobody else."""
        recent = RecentLists(max_lists=2)
        recent.render(b"quiet", pack_items("a"), 1)
        for number in range(10):
            recent.render(b"busy", pack_items(f"{number}", "x"), 1 + number % 2)
        assert item_ids(recent.render_last_valid(b"quiet", 1)) == ["a"]


class TestGeneration:
    """The generation being served."""

    def test_there_is_none_at_first(self) -> None:
        """Until one is published, no generation is served."""
        assert ListCache().generation is None

    @given(st.text(max_size=40), st.text(min_size=1, max_size=40))
    def test_reader_and_writer_use_the_same_keys(self, generation: str, user_id: str) -> None:
        """The prefix followed by the user's bytes is the key that the list was published under."""
        cache = ListCache()
        cache.set_generation("previous")
        cache.set_generation(generation)
        assert cache.generation == generation
        assert cache.key_prefix + user_id.encode() == list_key(generation, user_id)
