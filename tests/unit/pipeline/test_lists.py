"""From ranked arrays to lists: their items, the order, and the reasons given."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.domain.batch import BatchRef, StagedBatch, events_table
from include.domain.recommendation_list import MAX_ITEMS, RecommendationList
from include.pipeline.lists import Choice, ListBuilder, list_ttl_s
from include.stores.memory_tables import MemoryTables
from include.stores.memory_warehouse import MemoryUserActivity, MemoryWarehouseSink
from tests.contract.events import event, record

NO_VECTORS = np.empty((0, 2), dtype=np.float32)


def user_activity(texts: dict[str, str]) -> MemoryUserActivity:
    """User activity in which each item has its text."""
    tables = MemoryTables()
    events = [event(message_id=item, item_id=item, text=text) for item, text in texts.items()]
    table = events_table((record(offset), event) for offset, event in enumerate(events))
    MemoryWarehouseSink(tables).upsert(StagedBatch(BatchRef("events", 0, 0, 1), table, (), NO_VECTORS))
    return MemoryUserActivity(tables)


def similar(item: str, score: float, people: int) -> Choice:
    """An item that similar users chose."""
    return Choice(item, score, "similar_users", people=people)


def items_and_sources(recommendations: RecommendationList) -> list[tuple[str, str]]:
    return [(item.item_id, item.source) for item in recommendations.items]


def test_items_of_similar_users_come_first() -> None:
    """Popular items follow those of similar users, without duplicates and without items that the user has."""
    builder = ListBuilder(user_activity({}), [("own", 9.0), ("b", 8.0), ("p", 7.0), ("q", 6.0)], 5)
    [result] = builder.build_lists(["u"], [[similar("b", 0.5, 2), similar("a", 0.4, 1)]], {"u": {"own"}}, learned=False)
    assert items_and_sources(result) == [
        ("b", "similar_users"),
        ("a", "similar_users"),
        ("p", "popular"),
        ("q", "popular"),
    ]
    assert (result.generated_at, result.source) == (5, "similar_users")


def test_an_item_has_text_reason_and_rounded_score() -> None:
    """Each item has its text if there is one, a reason in correct grammar, and a score with six decimal places."""
    builder = ListBuilder(user_activity({"a": "a cup", "p": "a pot"}), [("p", 1.23456789)], 5)
    [result] = builder.build_lists(["u"], [[similar("a", 1 / 3, 1), similar("b", 0.25, 12)]], {}, learned=False)
    assert [(item.text, item.score, item.reason) for item in result.items] == [
        ("a cup", 0.333333, "chosen by 1 person with similar taste"),
        (None, 0.25, "chosen by 12 people with similar taste"),
        ("a pot", 1.234568, "popular lately"),
    ]


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        (Choice("a", 1.0, "similar_items", "b"), "because you chose a pot"),
        (Choice("a", 1.0, "similar_items", "untitled"), "because you chose untitled"),
        (Choice("a", 1.0, "similar_users", people=1), "chosen by 1 person with similar taste"),
        (Choice("a", 1.0, "similar_texts", "b"), "similar to a pot"),
        (Choice("a", 1.0, "similar_texts"), "similar to what you wrote"),
        (Choice("a", 1.0, "popular"), "popular lately"),
        (Choice("a", 1.0, "new"), "new"),
    ],
)
def test_a_reason_names_its_evidence(choice: Choice, reason: str) -> None:
    """The reason of an item by the trained ranking says what speaks for it: an own item by its title, or the people."""
    builder = ListBuilder(user_activity({"a": "a cup", "b": "a pot"}), [], 5)
    [result] = builder.build_lists(["u"], [[choice]], {"u": {"b"}}, learned=True)
    assert [(item.text, item.source, item.reason) for item in result.items] == [("a cup", choice.source, reason)]
    assert result.source == ("popular" if choice.source in ("popular", "new") else "learned")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 199 + "…"),
        ("茶" * 5_000, "茶" * 199 + "…"),
        ("x" * 190 + " " * 20 + "y", "x" * 190 + "…"),
    ],
)
def test_a_long_text_is_cut(text: str, shown: str) -> None:
    """A list repeats at most 200 characters of an item's text, in full or with an ellipsis."""
    builder = ListBuilder(user_activity({"a": text, "p": text}), [("p", 1.0)], 5)
    [result] = builder.build_lists(["u"], [[similar("a", 0.5, 1)]], {}, learned=False)
    assert [item.text for item in [*result.items, *builder.build_popular_list().items]] == [shown] * 3


def test_each_user_gets_a_separate_list() -> None:
    """Lists are in the order of the users, and items that one user has are still recommended to others."""
    builder = ListBuilder(user_activity({}), [("a", 2.0), ("b", 1.0)], 5)
    lists = builder.build_lists(["v", "stranger", "u"], [[], [], []], {"u": {"a"}, "v": {"b"}}, learned=False)
    assert [[item.item_id for item in result.items] for result in lists] == [["a"], ["a", "b"], ["b"]]
    assert {result.source for result in lists} == {"popular"}


def test_the_popular_list_has_the_most_popular_items() -> None:
    """The popular list is full, best first and marked as popular; before the first event it is empty."""
    popular = [(f"i{number:03d}", 1000.0 - number) for number in range(MAX_ITEMS + 5)]
    result = ListBuilder(user_activity({"i000": "best"}), popular, 7).build_popular_list()
    assert items_and_sources(result) == [(item, "popular") for item, _ in popular[:MAX_ITEMS]]
    assert result.items[0].text == "best"
    assert (result.generated_at, result.source) == (7, "popular")
    assert ListBuilder(user_activity({}), [], 7).build_popular_list().items == []


ITEMS = [f"i{number:02d}" for number in range(80)]


@given(st.sets(st.sampled_from(ITEMS)), st.permutations(ITEMS), st.integers(0, MAX_ITEMS), st.permutations(ITEMS))
def test_no_list_is_too_long_or_repeats_an_item(
    own: set[str], chosen: list[str], count: int, popular: list[str]
) -> None:
    """A list begins with every item of similar users, is filled up with popular ones, and repeats none."""
    best = [item for item in chosen if item not in own][:count]
    builder = ListBuilder(user_activity({}), [(item, 1.0) for item in popular], 1)
    [result] = builder.build_lists(["u"], [[similar(item, 1.0, 1) for item in best]], {"u": own}, learned=False)
    items = [item.item_id for item in result.items]
    assert items[: len(best)] == best
    assert (
        items[len(best) :]
        == [item for item in popular if item not in own and item not in best][: MAX_ITEMS - len(best)]
    )
    assert len(items) == len(set(items)) == min(MAX_ITEMS, len(ITEMS) - len(own))
    assert result.source == ("similar_users" if best else "popular")


@given(st.text(max_size=10), st.integers(0, 2**45), st.integers(300, 900))
def test_a_ttl_is_at_most_15_percent_below_its_setting(user: str, computed_at: int, ttl_s: int) -> None:
    """A TTL is at most its setting, at least seven minutes, and is the same in a retry."""
    actual = list_ttl_s(user, computed_at, ttl_s)
    assert max(420, 0.85 * ttl_s - 1) <= actual <= max(420, ttl_s)
    assert actual == list_ttl_s(user, computed_at, ttl_s)


@pytest.mark.parametrize("vary", ["user", "run"])
def test_lists_do_not_expire_together(vary: str) -> None:
    """At most a tenth of the lists of one run, or of one user's runs, have the same TTL."""
    pairs = [("u", number) if vary == "run" else (str(number), 1) for number in range(1000)]
    ttls = [list_ttl_s(user, run, 900) for user, run in pairs]
    assert max(ttls.count(ttl) for ttl in set(ttls)) <= 100
