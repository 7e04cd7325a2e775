"""The precompute on the memory adapters: whose list is made, from what, and when its marks are cleared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from include.domain.batch import BatchRef, StagedBatch, events_table
from include.domain.event import Event
from include.domain.recommendation_list import RecommendationList, list_key, popular_key, unpack
from include.embedders.memory import MemoryEmbedder
from include.pipeline import precompute
from include.pipeline.aggregate import aggregate_touched
from include.pipeline.precompute import PrecomputePorts
from include.settings import PipelineSettings
from include.sinks.memory import MemorySink
from include.stores import memory_warehouse as memory
from include.stores.files import ArrowFiles
from include.stores.memory_graph import MemoryGraph
from include.stores.memory_lists import MemoryLists
from include.stores.memory_vectors import MemoryProfiles
from tests.contract.events import event, record

DAY = 86_400_000
NOW = 400 * DAY


class World:
    """Stored events and everything that the precompute reads and writes; ``now`` is its clock."""

    def __init__(self, folder: str, **changes: object) -> None:
        self.now = NOW
        self.settings = replace(PipelineSettings(active_days=None, users_per_chunk=2), **changes)  # type: ignore[arg-type]
        self.tables = memory.MemoryTables()
        self.graph = MemorySink("neo4j", needs="item_id")
        self.lists = MemoryLists(clock=lambda: self.now / 1000)
        self.embedder = MemoryEmbedder()
        self.batches = 0
        self.ports = PrecomputePorts(
            activity=memory.MemoryUserActivity(self.tables),
            engagement=memory.MemoryEngagement(self.tables),
            text_vectors=memory.MemoryTextVectors(self.tables),
            profiles=MemoryProfiles(),
            graph=MemoryGraph(self.graph.rows),
            lists=self.lists,
            files=ArrowFiles(f"file://{folder}"),
            generation=self.embedder.generation,
        )

    def store(self, *events: Event) -> None:
        """Bring events into the stores as one committed batch, and aggregate."""
        ref = BatchRef("events", 0, self.batches, self.batches + 1)
        self.batches += 1
        table = events_table([(record(offset), each) for offset, each in enumerate(events)])
        hashes = {each.text_hash: each.text for each in events if each.text is not None}
        vectors = self.embedder.embed(list(hashes.values()))
        self.ports.text_vectors.put(self.embedder.generation, [name for name in hashes if name], vectors)
        batch = StagedBatch(ref, table, tuple(name for name in hashes if name), vectors)
        for sink in (memory.MemoryWarehouseSink(self.tables), self.graph):
            sink.upsert(batch)
        ledger = memory.MemoryLedger(self.tables)
        ledger.claim_range(ref)
        ledger.commit(ref)
        aggregate_touched(self.ports.engagement)

    def run(self) -> int:
        """One precompute run; how many lists it published."""
        ref = precompute.select_users(f"run{self.now}", self.now, self.settings, self.ports)
        for chunk in range(ref.chunks):
            precompute.build_profiles(ref, chunk, self.ports)
        for chunk in range(ref.chunks):
            precompute.recommend(ref, chunk, self.ports)
        return precompute.publish(ref, self.settings, self.ports)

    def list_of(self, user: str) -> RecommendationList | None:
        packed = self.lists.get(list_key(self.embedder.generation.name, user))
        return None if packed is None else unpack(packed)

    def popular(self) -> Sequence[str]:
        packed = self.lists.get(popular_key(self.embedder.generation.name))
        assert packed is not None
        return [item.item_id for item in unpack(packed).items]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(str(tmp_path))


def bought(user: str, item: str, text: str, days_ago: float = 1, **changes: object) -> Event:
    when = NOW - round(days_ago * DAY)
    return event(user_id=user, message_id=f"{item} {days_ago}", item_id=item, text=text, occurred_at=when, **changes)


def shop(world: World) -> None:
    """Two tastes, three users each; every user lacks one item of the taste."""
    for taste, words in (("tea", "green tea cup"), ("car", "fast red car")):
        for number in range(3):
            items = [f"{taste}{n}" for n in range(4) if n != number]
            world.store(*(bought(f"{taste} user {number}", item, f"{words} {item}") for item in items))


def test_similar_users_recommend_what_is_missing(world: World) -> None:
    """A list begins with what users of the same taste have and this one lacks, with text and reason."""
    shop(world)
    assert world.run() == 6
    for taste in ("tea", "car"):
        made = world.list_of(f"{taste} user 1")
        assert made is not None
        assert (made.items[0].item_id, made.items[0].source) == (f"{taste}1", "similar_users")
        assert made.items[0].reason == "chosen by 2 people with similar taste"
        assert f"{taste}1" in (made.items[0].text or "")
        assert made.source == "similar_users"
        assert made.generated_at == NOW


def test_lists_are_filled_up_with_popular_items(world: World) -> None:
    """After the similar users' items come popular ones, marked so; never an item that the user has."""
    shop(world)
    world.store(event(user_id="quiet", message_id="1", item_id="gift", text=None, occurred_at=NOW - DAY))
    world.run()
    made = world.list_of("tea user 0")
    assert made is not None
    items = {item.item_id: item.source for item in made.items}
    assert items["tea0"] == "similar_users"
    assert items["gift"] == made.items[-1].source == "popular"
    assert not items.keys() & {"tea1", "tea2", "tea3"}


def test_a_user_without_text_gets_popular_items(world: World) -> None:
    """Without a profile there are no neighbours; the list says that it is popular."""
    shop(world)
    world.store(event(user_id="quiet", message_id="1", item_id="tea0", text=None, occurred_at=NOW - DAY))
    world.run()
    made = world.list_of("quiet")
    assert made is not None
    assert made.source == "popular"
    assert made.items


def test_popularity_has_a_half_life(world: World) -> None:
    """Two purchases long ago count less than one today."""
    world.store(bought("a", "old", "x", 90), bought("b", "old", "x", 90.1), bought("c", "new", "y", 1))
    world.run()
    assert world.popular() == ["new", "old"]


def test_only_changed_users_are_made_again(world: World) -> None:
    """A second run makes no list; a new event makes that of its user alone."""
    shop(world)
    world.run()
    world.now += 60_000
    assert world.run() == 0
    world.store(bought("tea user 0", "tea9", "green tea cup"))
    assert world.run() == 1
    assert world.ports.activity.changed_users() == []


def test_a_list_is_made_again_before_it_ends(world: World) -> None:
    """Active users never lose their list: it is refreshed while some of its time is left."""
    shop(world)
    world.run()
    for _ in range(6):
        world.now += 5 * 60_000
        world.run()
        assert world.list_of("tea user 0") is not None


def test_inactive_users_are_left_alone_until_they_ask(tmp_path: Path) -> None:
    """Without an event in active_days a list is not refreshed, unless its user asked for it lately."""
    world = World(str(tmp_path), active_days=30)
    world.store(bought("old", "x", "a", 100), bought("new", "x", "a", 1))
    assert world.run() == 2
    world.now += 14 * 60_000
    assert world.run() == 1
    assert world.list_of("new") is not None


def test_recency_may_count_from_the_newest_event(tmp_path: Path) -> None:
    """With as_of newest_event, users of an old file are as active as they were at its end."""
    world = World(str(tmp_path), active_days=30, as_of="newest_event")
    world.store(bought("old", "x", "a", 200), bought("new", "x", "a", 190))
    world.run()
    world.now += 14 * 60_000
    assert world.run() == 2


def test_a_failed_run_leaves_its_marks(world: World) -> None:
    """Until the lists are published their users stay changed; the steps may run twice."""
    shop(world)
    ref = precompute.select_users("run", world.now, world.settings, world.ports)
    for _ in range(2):
        precompute.build_profiles(ref, 0, world.ports)
        precompute.recommend(ref, 0, world.ports)
    assert len({mark.key for mark in world.ports.activity.changed_users()}) == 6
    assert world.run() == 6


def test_a_change_during_a_run_is_not_forgotten(world: World) -> None:
    """A user whose events change after the selection is made again by the next run."""
    world.store(bought("a", "x", "t"))
    ref = precompute.select_users("run", world.now, world.settings, world.ports)
    world.store(bought("a", "y", "t"))
    precompute.build_profiles(ref, 0, world.ports)
    precompute.recommend(ref, 0, world.ports)
    precompute.publish(ref, world.settings, world.ports)
    assert [mark.key for mark in world.ports.activity.changed_users()] == ["a"]


def test_nothing_stored_publishes_an_empty_popular_list(world: World) -> None:
    """Before the first event the precompute succeeds and the reader has something to say."""
    assert world.run() == 0
    assert world.popular() == []


def test_lists_live_five_to_fifteen_minutes() -> None:
    """The time of a list is spread below its setting and never under five minutes."""
    from include.pipeline.lists import list_ttl_s

    spread = [list_ttl_s(f"user {number}", 1, 900) for number in range(500)]
    assert 765 <= min(spread) < max(spread) <= 900
    assert {list_ttl_s("user", run, 300) for run in range(50)} == {300}
