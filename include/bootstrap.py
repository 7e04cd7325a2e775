"""The composition root of the pipeline: the one place that knows which adapter keeps which port.

Each function imports its driver when it is called, so that a task pays only for what it uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from include.domain.generation import Generation
from include.settings import (
    EmbedSettings,
    KafkaSettings,
    MilvusSettings,
    MongoSettings,
    Neo4jSettings,
    PipelineSettings,
    RedisSettings,
    WarehouseSettings,
)

if TYPE_CHECKING:
    from include.embedders.openai import OpenAIEmbedder
    from include.pipeline.precompute import Stores
    from include.ports import BatchStore, Sink, Validator
    from include.sources.kafka import KafkaDeadLetters, KafkaSource
    from include.stores.redis import RedisLists
    from include.stores.warehouse.warehouse import Warehouse


class Closable(Protocol):
    """What holds a connection."""

    def close(self) -> None: ...


@contextmanager
def opened(*adapters: Any) -> Iterator[tuple[Any, ...]]:
    """The adapters, each closed at the end whatever happens."""
    with ExitStack() as stack:
        for adapter in adapters:
            stack.callback(adapter.close)
        yield adapters


def source(settings: KafkaSettings) -> KafkaSource:
    """The topic of events."""
    from include.sources.kafka import KafkaSource

    return KafkaSource(settings)


def dead_letters(settings: KafkaSettings) -> KafkaDeadLetters:
    """The topic of messages that are no events."""
    from include.sources.kafka import KafkaDeadLetters

    return KafkaDeadLetters(settings)


def validator() -> Validator:
    """The Great Expectations suite."""
    from include.validation.great_expectations import GreatExpectationsValidator

    return GreatExpectationsValidator()


def embedder(settings: EmbedSettings) -> OpenAIEmbedder:
    """The embedding server."""
    from include.embedders.openai import OpenAIEmbedder

    return OpenAIEmbedder(settings)


def files(settings: PipelineSettings) -> BatchStore:
    """The folder of files between tasks."""
    from include.stores.files import ArrowFiles

    return ArrowFiles(settings.batch_path)


def warehouse(settings: WarehouseSettings) -> Warehouse:
    """The ledger, the text vectors, the engagement and the audience."""
    from include.stores.warehouse.warehouse import Warehouse

    return Warehouse(settings)


def lists(settings: RedisSettings) -> RedisLists:
    """The lists that the reader serves."""
    from include.stores.redis import RedisLists

    return RedisLists(settings)


def mongo_sink(settings: MongoSettings) -> Sink:
    """Events as documents."""
    from include.sinks.mongo import MongoSink

    return MongoSink(settings)


def milvus_sink(settings: MilvusSettings, generation: Generation, shards: int) -> Sink:
    """Vectors of events with a text."""
    from include.sinks.milvus import MilvusSink

    return MilvusSink(settings, generation, shards)


def neo4j_sink(settings: Neo4jSettings) -> Sink:
    """Engagements of events with an item."""
    from include.sinks.neo4j import Neo4jSink

    return Neo4jSink(settings)


def warehouse_sink(settings: WarehouseSettings) -> Sink:
    """Every event as a row."""
    from include.sinks.warehouse import WarehouseSink
    from include.stores.warehouse.warehouse import Warehouse

    return WarehouseSink(Warehouse(settings).database)


@contextmanager
def precompute_stores(
    *,
    warehouse: WarehouseSettings,
    milvus: MilvusSettings,
    neo4j: Neo4jSettings,
    redis: RedisSettings,
    generation: Generation,
    pipeline: PipelineSettings,
) -> Iterator[Stores]:
    """Everything the precompute reads and writes, closed at the end."""
    from include.pipeline.precompute import Stores
    from include.stores.milvus import MilvusProfiles
    from include.stores.neo4j import Neo4jGraph
    from include.stores.redis import RedisLists
    from include.stores.warehouse.warehouse import Warehouse

    house, profiles = Warehouse(warehouse), MilvusProfiles(milvus, generation)
    graph, made = Neo4jGraph(neo4j), RedisLists(redis)
    with opened(house, profiles, graph, made):
        yield Stores(
            audience=house.audience,
            engagement=house.engagement,
            text_vectors=house.text_vectors,
            profiles=profiles,
            graph=graph,
            lists=made,
            files=files(pipeline),
            generation=generation,
        )
