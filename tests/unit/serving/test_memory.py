"""What the reader knows without Redis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.domain.recommendation_list import list_key
from include.serving.answers import UNREADABLE, Answer
from include.serving.memory import Memory, Popular, Recent
from tests.unit.serving.lists import foreign, names, packed

GOOD = ["a", 1.0, None, "popular", "r"]
UNREADABLE_LISTS = [b"", b"not a list at all", packed("a")[:-1], foreign([GOOD, ["b"]])]


def items(answer: Answer | None) -> list[str]:
    """The items of an answer that there is."""
    assert answer is not None
    return names(answer.items)


class TestPopular:
    """The popular list."""

    def test_there_is_none_before_the_first(self) -> None:
        """Nothing was read yet: no answer at all."""
        assert Popular().answer(10) is None

    def test_it_is_cut_to_each_limit(self) -> None:
        """Whatever was asked before, an answer has as many items as this request wants, or as there are."""
        popular = Popular()
        assert popular.take(packed("a", "b", "c"))
        assert [items(popular.answer(limit)) for limit in (2, 1, 60, 2)] == [
            ["a", "b"],
            ["a"],
            ["a", "b", "c"],
            ["a", "b"],
        ]

    def test_a_newer_one_takes_its_place_for_every_limit(self) -> None:
        """No answer made of the former list outlives it."""
        popular = Popular()
        popular.take(packed("a", "b"))
        assert items(popular.answer(1)) == ["a"]
        assert popular.take(packed("c", "d"))
        assert items(popular.answer(1)) == ["c"]
        assert items(popular.answer(2)) == ["c", "d"]

    @pytest.mark.parametrize("data", UNREADABLE_LISTS)
    def test_it_stays_when_the_next_is_unreadable(self, data: bytes) -> None:
        """Bytes that are no list, be it only in an item that few ask for, are refused and the former list stays."""
        popular = Popular()
        assert not popular.take(data)
        assert popular.answer(1) is None
        popular.take(packed("a", "b"))
        assert not popular.take(data)
        assert items(popular.answer(60)) == ["a", "b"]


class TestRecent:
    """The lists served lately."""

    def test_the_last_list_is_remembered_at_any_limit(self) -> None:
        """What a user was served last is known, also to a request that wants more or fewer items."""
        recent = Recent()
        assert names(recent.answer(b"u", packed("a", "b", "c"), 2).items) == ["a", "b"]
        assert [items(recent.last_good(b"u", limit)) for limit in (1, 2, 3)] == [["a"], ["a", "b"], ["a", "b", "c"]]
        assert recent.last_good(b"other", 2) is None

    def test_a_changed_list_or_limit_is_rendered_anew(self) -> None:
        """An answer kept is used for the same bytes and the same limit only."""
        recent = Recent()
        first = recent.answer(b"u", packed("a", "b"), 2)
        assert recent.answer(b"u", packed("a", "b"), 2) is first
        assert names(recent.answer(b"u", packed("a", "b"), 1).items) == ["a"]
        assert names(recent.answer(b"u", packed("c", "d"), 1).items) == ["c"]
        assert items(recent.last_good(b"u", 2)) == ["c", "d"]

    @pytest.mark.parametrize("data", UNREADABLE_LISTS)
    def test_an_unreadable_list_leaves_the_last_good_one(self, data: bytes) -> None:
        """It is refused, and nothing of it is remembered."""
        recent = Recent()
        recent.answer(b"u", packed("a"), 10)
        with pytest.raises(UNREADABLE):
            recent.answer(b"u", data, 10)
        assert items(recent.last_good(b"u", 10)) == ["a"]

    def test_items_never_served_may_be_unreadable(self) -> None:
        """A list that is good as far as it was served is no last good list for those who want more of it."""
        recent = Recent()
        recent.answer(b"u", foreign([GOOD, ["b"]]), 1)
        assert items(recent.last_good(b"u", 1)) == ["a"]
        assert recent.last_good(b"u", 2) is None

    @given(st.lists(st.integers(0, 9), max_size=40))
    def test_it_is_bounded(self, users: list[int]) -> None:
        """However many users ask, so many are remembered and no more, the one served last among them."""
        recent = Recent(most=3)
        for user in users:
            recent.answer(b"%d" % user, packed(f"item-{user}"), 1)
            assert items(recent.last_good(b"%d" % user, 1)) == [f"item-{user}"]
        known = [user for user in range(10) if recent.last_good(b"%d" % user, 1)]
        assert len(known) == min(3, len(set(users)))

    def test_a_user_with_many_lists_takes_one_place(self) -> None:
        """Who asks often or whose list changes often pushes nobody out."""
        recent = Recent(most=2)
        recent.answer(b"quiet", packed("a"), 1)
        for number in range(10):
            recent.answer(b"busy", packed(f"{number}", "x"), 1 + number % 2)
        assert items(recent.last_good(b"quiet", 1)) == ["a"]


class TestGeneration:
    """The generation whose lists are read."""

    def test_there_is_none_before_the_first(self) -> None:
        """Nothing was published yet."""
        assert Memory().generation is None

    @given(st.text(max_size=40), st.text(min_size=1, max_size=40))
    def test_a_users_key_is_that_of_the_writer(self, generation: str, user_id: str) -> None:
        """The prefix and the user's bytes are the key under which the list was published."""
        memory = Memory()
        memory.serve("former")
        memory.serve(generation)
        assert memory.generation == generation
        assert memory.key_prefix + user_id.encode() == list_key(generation, user_id)
