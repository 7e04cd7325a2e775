"""The precompute in memory: whose lists are built, from what, and when marks are cleared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from include.domain.batch import BatchRef, StagedBatch, events_table
from include.domain.event import Event
from include.domain.identity import text_hash
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


class Pipeline:
    """Stored events, and everything that the precompute reads and writes. ``now`` is its clock."""

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
        """Store the events as one committed batch, and aggregate."""
        ledger = memory.MemoryLedger(self.tables)
        ref = ledger.claim_range(BatchRef("events", 0, self.batches, self.batches + 1))
        self.batches += 1
        table = events_table((record(offset), event) for offset, event in enumerate(events))
        texts = {text_hash(event.text): event.text for event in events if event.text is not None}
        vectors = self.embedder.embed(list(texts.values()))
        self.ports.text_vectors.put(self.embedder.generation, list(texts), vectors)
        batch = StagedBatch(ref, table, tuple(texts), vectors)
        for sink in (memory.MemoryWarehouseSink(self.tables), self.graph):
            sink.upsert(batch)
        ledger.commit(ref)
        aggregate_touched(self.ports.engagement)

    def run(self) -> int:
        """One precompute run. Returns the number of lists it published."""
        ref = precompute.select_users(f"run{self.now}", self.now, self.settings, self.ports)
        for chunk in range(ref.chunks):
            precompute.build_profiles(ref, chunk, self.ports)
        for chunk in range(ref.chunks):
            precompute.recommend(ref, chunk, self.ports)
        return precompute.publish(ref, self.settings, self.ports)

    def list_of(self, user: str) -> RecommendationList | None:
        packed = self.lists.get(list_key(self.embedder.generation.name, user))
        return None if packed is None else unpack(packed)

    def rank_popular(self) -> Sequence[str]:
        packed = self.lists.get(popular_key(self.embedder.generation.name))
        assert packed is not None
        return [item.item_id for item in unpack(packed).items]


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline(str(tmp_path))


def purchase(user: str, item: str, text: str, days_ago: float = 1, **changes: object) -> Event:
    time = NOW - round(days_ago * DAY)
    return event(user_id=user, message_id=f"{item} {days_ago}", item_id=item, text=text, occurred_at=time, **changes)


def store_purchases(pipeline: Pipeline) -> None:
    """Store the purchases of two groups of three users with the same taste; each user lacks one item of the group."""
    for taste, words in (("tea", "green tea cup"), ("car", "fast red car")):
        for number in range(3):
            items = [f"{taste}{n}" for n in range(4) if n != number]
            pipeline.store(*(purchase(f"{taste} user {number}", item, f"{words} {item}") for item in items))


def test_items_of_similar_users_are_recommended(pipeline: Pipeline) -> None:
    """A list begins with the item that users of the same taste have and this one lacks, with text and reason."""
    store_purchases(pipeline)
    assert pipeline.run() == 6
    for taste in ("tea", "car"):
        recommendations = pipeline.list_of(f"{taste} user 1")
        assert recommendations is not None
        assert (recommendations.items[0].item_id, recommendations.items[0].source) == (f"{taste}1", "similar_users")
        assert recommendations.items[0].reason == "chosen by 2 people with similar taste"
        assert f"{taste}1" in (recommendations.items[0].text or "")
        assert recommendations.source == "similar_users"
        assert recommendations.generated_at == NOW


def test_lists_are_filled_up_with_popular_items(pipeline: Pipeline) -> None:
    """Popular items follow those of similar users and are marked as such; items that the user has are left out."""
    store_purchases(pipeline)
    pipeline.store(event(user_id="quiet", message_id="1", item_id="gift", text=None, occurred_at=NOW - DAY))
    pipeline.run()
    recommendations = pipeline.list_of("tea user 0")
    assert recommendations is not None
    items = {item.item_id: item.source for item in recommendations.items}
    assert items["tea0"] == "similar_users"
    assert items["gift"] == recommendations.items[-1].source == "popular"
    assert not items.keys() & {"tea1", "tea2", "tea3"}


def test_a_user_without_text_gets_popular_items(pipeline: Pipeline) -> None:
    """A user without a profile has no neighbours, and gets a list that is marked as popular."""
    store_purchases(pipeline)
    pipeline.store(event(user_id="quiet", message_id="1", item_id="tea0", text=None, occurred_at=NOW - DAY))
    pipeline.run()
    recommendations = pipeline.list_of("quiet")
    assert recommendations is not None
    assert recommendations.source == "popular"
    assert recommendations.items


def test_popularity_has_a_half_life(pipeline: Pipeline) -> None:
    """Two old purchases count less than a recent one."""
    pipeline.store(purchase("a", "old", "x", 90), purchase("b", "old", "x", 90.1), purchase("c", "new", "y", 1))
    pipeline.run()
    assert pipeline.rank_popular() == ["new", "old"]


def test_only_lists_of_changed_users_are_rebuilt(pipeline: Pipeline) -> None:
    """A second run builds no list, and a new event rebuilds only the list of its user."""
    store_purchases(pipeline)
    pipeline.run()
    pipeline.now += 60_000
    assert pipeline.run() == 0
    pipeline.store(purchase("tea user 0", "tea9", "green tea cup"))
    assert pipeline.run() == 1
    assert pipeline.ports.activity.read_changed_users() == []


def test_a_list_is_rebuilt_before_it_expires(pipeline: Pipeline) -> None:
    """Active users always have a list, because it is rebuilt before its TTL is over."""
    store_purchases(pipeline)
    pipeline.run()
    for _ in range(6):
        pipeline.now += 5 * 60_000
        pipeline.run()
        assert pipeline.list_of("tea user 0") is not None


def test_lists_of_inactive_users_are_not_refreshed(tmp_path: Path) -> None:
    """A user without an event in the last active_days gets a list once, but it is not rebuilt before it expires."""
    pipeline = Pipeline(str(tmp_path), active_days=30)
    pipeline.store(purchase("old", "x", "a", 100), purchase("new", "x", "a", 1))
    assert pipeline.run() == 2
    pipeline.now += 14 * 60_000
    assert pipeline.run() == 1
    assert pipeline.list_of("new") is not None


def test_recency_may_count_from_the_newest_event(tmp_path: Path) -> None:
    """With as_of newest_event, the users of an old file are as active as they were at the time of its last event."""
    pipeline = Pipeline(str(tmp_path), active_days=30, as_of="newest_event")
    pipeline.store(purchase("old", "x", "a", 200), purchase("new", "x", "a", 190))
    pipeline.run()
    pipeline.now += 14 * 60_000
    assert pipeline.run() == 2


def test_a_failed_run_keeps_its_marks(pipeline: Pipeline) -> None:
    """Users stay marked as changed until their lists are published, and every step before that may run twice."""
    store_purchases(pipeline)
    ref = precompute.select_users("run", pipeline.now, pipeline.settings, pipeline.ports)
    for _ in range(2):
        precompute.build_profiles(ref, 0, pipeline.ports)
        precompute.recommend(ref, 0, pipeline.ports)
    assert len({mark.key for mark in pipeline.ports.activity.read_changed_users()}) == 6
    assert pipeline.run() == 6


def test_a_change_during_a_run_is_not_lost(pipeline: Pipeline) -> None:
    """A user whose events change after the selection is still marked for the next run."""
    pipeline.store(purchase("a", "x", "t"))
    ref = precompute.select_users("run", pipeline.now, pipeline.settings, pipeline.ports)
    pipeline.store(purchase("a", "y", "t"))
    precompute.build_profiles(ref, 0, pipeline.ports)
    precompute.recommend(ref, 0, pipeline.ports)
    precompute.publish(ref, pipeline.settings, pipeline.ports)
    assert [mark.key for mark in pipeline.ports.activity.read_changed_users()] == ["a"]


def test_nothing_stored_publishes_an_empty_popular_list(pipeline: Pipeline) -> None:
    """Before the first event the precompute succeeds, and publishes an empty popular list for the reader."""
    assert pipeline.run() == 0
    assert pipeline.rank_popular() == []


def test_ttls_are_between_five_and_fifteen_minutes() -> None:
    """TTLs are spread below their setting and never fall below five minutes."""
    from include.pipeline.lists import list_ttl_s

    ttls = [list_ttl_s(f"user {number}", 1, 900) for number in range(500)]
    assert 765 <= min(ttls) < max(ttls) <= 900
    assert {list_ttl_s("user", run, 300) for run in range(50)} == {300}
