"""The precompute in memory, for tests: stored events, and everything that a run reads and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from include.domain.batch import BatchRef, StagedBatch, events_table
from include.domain.event import Event
from include.domain.identity import text_hash
from include.domain.recommendation_list import RecommendationList, list_key, popular_key, unpack
from include.embedders.memory import MemoryEmbedder
from include.pipeline import precompute
from include.pipeline.aggregate import aggregate_touched
from include.pipeline.precompute import PrecomputePorts, RunRef
from include.settings import PipelineSettings
from include.sinks.memory import MemorySink
from include.stores import memory_warehouse as memory
from include.stores.files import ArrowFiles
from include.stores.memory_graph import MemoryGraph
from include.stores.memory_lists import MemoryLists
from include.stores.memory_ranking import MemoryEngagementLog, MemoryRankingModels
from include.stores.memory_tables import MemoryTables
from include.stores.memory_vectors import MemoryProfiles
from tests.contract.events import event, record

DAY = 86_400_000
NOW = 400 * DAY


class Pipeline:
    """Stored events, and everything that the precompute reads and writes. ``now`` is its clock."""

    def __init__(self, folder: str, **changes: object) -> None:
        self.now = NOW
        self.settings = replace(PipelineSettings(active_days=None, users_per_chunk=2), **changes)  # type: ignore[arg-type]
        self.tables = MemoryTables()
        self.graph = MemorySink("neo4j", needs="item_id")
        self.lists = MemoryLists(clock=lambda: self.now / 1000)
        self.embedder = MemoryEmbedder()
        self.batches = 0
        self.ports = PrecomputePorts(
            activity=memory.MemoryUserActivity(self.tables, clock=lambda: self.now / 1000),
            engagement=memory.MemoryEngagement(self.tables),
            text_vectors=memory.MemoryTextVectors(self.tables),
            profiles=MemoryProfiles(),
            graph=MemoryGraph(self.graph.rows),
            log=MemoryEngagementLog(self.tables),
            models=MemoryRankingModels(self.tables),
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
        return precompute.publish(self.build(), self.settings, self.ports)

    def build(self) -> RunRef:
        """The steps of one precompute run before it publishes."""
        ref = precompute.select_users(f"run{self.now}", self.settings, self.ports)
        for chunk in range(ref.chunks):
            precompute.build_profiles(ref, chunk, self.ports)
        for chunk in range(ref.chunks):
            precompute.recommend(ref, chunk, self.ports)
        return ref

    def list_of(self, user: str) -> RecommendationList | None:
        packed = self.lists.get(list_key(self.embedder.generation.name, user))
        return None if packed is None else unpack(packed)

    def rank_popular(self) -> Sequence[str]:
        packed = self.lists.get(popular_key(self.embedder.generation.name))
        assert packed is not None
        return [item.item_id for item in unpack(packed).items]


def purchase(user: str, item: str, text: str | None, days_ago: float = 1, **changes: object) -> Event:
    time = NOW - round(days_ago * DAY)
    return event(user_id=user, message_id=f"{item} {days_ago}", item_id=item, text=text, occurred_at=time, **changes)
