"""From ranked arrays to lists: what is in them, in which order, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.domain.batch import BatchRef, StagedBatch, events_table
from include.domain.ranking import Engagements, Ranked
from include.domain.recommendation_list import MAX_ITEMS, RecommendationList
from include.pipeline.lists import ListBuilder, list_ttl_s
from include.stores.memory_warehouse import MemoryTables, MemoryUserActivity, MemoryWarehouseSink
from tests.contract.events import event, record

NO_VECTORS = np.empty((0, 2), dtype=np.float32)


def user_activity(texts: dict[str, str]) -> MemoryUserActivity:
    """One that knows these texts of items."""
    tables = MemoryTables()
    events = [event(message_id=item, item_id=item, text=text) for item, text in texts.items()]
    rows = events_table([(record(number), each) for number, each in enumerate(events)])
    MemoryWarehouseSink(tables).upsert(StagedBatch(BatchRef("events", 0, 0, 1), rows, (), NO_VECTORS))
    return MemoryUserActivity(tables)


def known(owns: dict[str, Sequence[str]], others: Sequence[str] = ()) -> Engagements:
    """Who has what; ``others`` are items that somebody else has."""
    users = list(owns)
    items = sorted({item for own in owns.values() for item in own}.union(others))
    pairs = [(users.index(user), items.index(item)) for user, own in owns.items() for item in own]
    return Engagements(
        users,
        items,
        np.asarray([user for user, _ in pairs], dtype=np.int32),
        np.asarray([item for _, item in pairs], dtype=np.int32),
        np.zeros(len(pairs), dtype=np.int64),
        np.ones(len(pairs)),
    )


def ranked(engagements: Engagements, *rows: tuple[str, float, int]) -> Ranked:
    """(item, score, people), best first."""
    items = [engagements.items.index(item) for item, _, _ in rows]
    return Ranked(
        np.asarray(items, dtype=np.int64), np.asarray([row[1] for row in rows]), np.asarray([row[2] for row in rows])
    )


def shown(made: RecommendationList) -> list[tuple[str, str]]:
    return [(item.item_id, item.source) for item in made.items]


def test_what_similar_users_chose_comes_first() -> None:
    """Then popular items in their order; none that the user has, and none twice."""
    engagements = known({"u": ["own"]}, ["a", "b"])
    builder = ListBuilder(user_activity({}), [("own", 9.0), ("b", 8.0), ("p", 7.0), ("q", 6.0)], 5)
    [made] = builder.build_lists(["u"], [ranked(engagements, ("b", 0.5, 2), ("a", 0.4, 1))], engagements)
    assert shown(made) == [("b", "similar_users"), ("a", "similar_users"), ("p", "popular"), ("q", "popular")]
    assert (made.generated_at, made.source) == (5, "similar_users")


def test_an_item_has_text_reason_and_rounded_score() -> None:
    """One person is one person; an item without a text has none; scores have six places."""
    engagements = known({"u": []}, ["a", "b"])
    builder = ListBuilder(user_activity({"a": "a cup", "p": "a pot"}), [("p", 1.23456789)], 5)
    [made] = builder.build_lists(["u"], [ranked(engagements, ("a", 1 / 3, 1), ("b", 0.25, 12))], engagements)
    assert [(item.text, item.score, item.reason) for item in made.items] == [
        ("a cup", 0.333333, "chosen by 1 person with similar taste"),
        (None, 0.25, "chosen by 12 people with similar taste"),
        ("a pot", 1.234568, "popular lately"),
    ]


def test_each_user_gets_an_own_list() -> None:
    """Lists come in the order of the users, and what one has is not left out for another."""
    engagements = known({"u": ["a"], "v": ["b"]})
    empty = ranked(engagements)
    builder = ListBuilder(user_activity({}), [("a", 2.0), ("b", 1.0)], 5)
    made = builder.build_lists(["v", "stranger", "u"], [empty, empty, empty], engagements)
    assert [[item for item, _ in shown(each)] for each in made] == [["a"], ["a", "b"], ["b"]]
    assert {each.source for each in made} == {"popular"}


def test_the_popular_list_is_the_best_of_the_popular() -> None:
    """As many as a list may have, best first, and it says what it is; before the first event it is empty."""
    popular = [(f"i{number:03d}", 1000.0 - number) for number in range(MAX_ITEMS + 5)]
    made = ListBuilder(user_activity({"i000": "best"}), popular, 7).build_popular_list()
    assert shown(made) == [(item, "popular") for item, _ in popular[:MAX_ITEMS]]
    assert made.items[0].text == "best"
    assert (made.generated_at, made.source) == (7, "popular")
    assert ListBuilder(user_activity({}), [], 7).build_popular_list().items == []


ITEMS = [f"i{number:02d}" for number in range(80)]


@given(st.sets(st.sampled_from(ITEMS)), st.permutations(ITEMS), st.integers(0, MAX_ITEMS), st.permutations(ITEMS))
def test_no_list_is_too_long_or_has_an_item_twice(
    own: set[str], similar: list[str], chosen: int, popular: list[str]
) -> None:
    """Whatever is similar, popular and owned: full where there is enough, similar items whole and first."""
    engagements = known({"u": sorted(own)}, ITEMS)
    best = [item for item in similar if item not in own][:chosen]
    builder = ListBuilder(user_activity({}), [(item, 1.0) for item in popular], 1)
    [made] = builder.build_lists(["u"], [ranked(engagements, *((item, 1.0, 1) for item in best))], engagements)
    items = [item.item_id for item in made.items]
    assert items[: len(best)] == best
    assert (
        items[len(best) :]
        == [item for item in popular if item not in own and item not in best][: MAX_ITEMS - len(best)]
    )
    assert len(items) == len(set(items)) == min(MAX_ITEMS, len(ITEMS) - len(own))
    assert made.source == ("similar_users" if best else "popular")


@given(st.text(max_size=10), st.integers(0, 2**45), st.integers(300, 900))
def test_a_list_lives_up_to_its_setting(user: str, computed_at: int, ttl_s: int) -> None:
    """At most as long, at most 15 % and a rounding less, never under five minutes, and the same when done again."""
    lives = list_ttl_s(user, computed_at, ttl_s)
    assert max(300, 0.85 * ttl_s - 1) <= lives <= ttl_s
    assert lives == list_ttl_s(user, computed_at, ttl_s)


@pytest.mark.parametrize("vary", ["user", "run"])
def test_lists_do_not_end_together(vary: str) -> None:
    """Of the lists of one run, and of one user's runs, no second takes more than a tenth."""
    pairs = [("u", number) if vary == "run" else (str(number), 1) for number in range(1000)]
    lives = [list_ttl_s(user, run, 900) for user, run in pairs]
    assert max(lives.count(each) for each in set(lives)) <= 100
