"""The composition root of the pipeline: the one place that knows which adapter implements which port.

``SINKS`` is the registry of sinks. The ``open_*`` functions return an adapter that the caller closes; the ``*_ports``
context managers open everything that one step of the pipeline needs and close it at the end. Drivers are imported
inside the functions, so that a task pays only for what it uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.errors import ConfigurationError
from include.settings import MEMORY_SCHEME, Settings

if TYPE_CHECKING:
    from include.embedders.memory import MemoryEmbedder
    from include.embedders.openai import OpenAIEmbedder
    from include.memory_servers import MemoryServers
    from include.pipeline.commit import CommitPorts
    from include.pipeline.embed import EmbedPorts
    from include.pipeline.precompute import PrecomputePorts
    from include.pipeline.redrive import RedrivePorts
    from include.pipeline.replay import ReplayPorts
    from include.pipeline.settle import SettlePorts
    from include.pipeline.stage import StagePorts
    from include.pipeline.upsert import UpsertPorts
    from include.ports import BatchStore, Engagement, Sink, Validator
    from include.sources.kafka import KafkaDeadLetters, KafkaSource
    from include.sources.kafka_producer import Publisher
    from include.sources.memory import MemoryDeadLetters, MemoryPublisher, MemorySource
    from include.stores.memory_graph import MemoryGraph, MemorySimilarItems
    from include.stores.memory_lists import MemoryLists
    from include.stores.memory_vectors import MemoryProfiles
    from include.stores.memory_warehouse import MemoryWarehouse
    from include.stores.milvus import MilvusProfiles
    from include.stores.neo4j import Neo4jGraph
    from include.stores.neo4j_similar import Neo4jSimilarItems
    from include.stores.redis import RedisLists
    from include.stores.warehouse.warehouse import Warehouse


@dataclass(frozen=True)
class SinkSpec:
    """One store of events.

    ``address`` is the URL of its server, ``open`` connects to it. ``needs`` is the EVENT_SCHEMA column that an event
    must have to be stored (None: every event is); ``needs_vectors`` makes its task wait for the embeddings.
    """

    title: str
    content: str
    connection: str
    address: Callable[[Settings], str]
    open: Callable[[Settings], Sink]
    needs: str | None = None
    needs_vectors: bool = False


def _open_mongo_sink(settings: Settings) -> Sink:
    from include.sinks.mongo import MongoSink

    return MongoSink(settings.mongo)


def _open_milvus_sink(settings: Settings) -> Sink:
    from include.sinks.milvus import MilvusSink

    return MilvusSink(settings.milvus, settings.embed.generation, settings.pipeline.shards)


def _open_neo4j_sink(settings: Settings) -> Sink:
    from include.sinks.neo4j import Neo4jSink

    return Neo4jSink(settings.neo4j)


def _open_warehouse_sink(settings: Settings) -> Sink:
    from include.sinks.warehouse import WarehouseSink

    return WarehouseSink(settings.warehouse)


#: Every store of events, by the name of its module in ``include/sinks``. The DAG, the preloaded modules, the demo's
#: check, the counts, docs/stores.md and the contract suite iterate over it. docs/adding-a-sink.md says how to add one.
SINKS: Mapping[str, SinkSpec] = {
    "mongo": SinkSpec(
        title="MongoDB",
        content="every valid event as one document",
        connection="mongo_default",
        address=lambda settings: settings.mongo.uri,
        open=_open_mongo_sink,
    ),
    "milvus": SinkSpec(
        title="Milvus",
        content="one vector per event with a text",
        connection="milvus_default",
        address=lambda settings: settings.milvus.uri,
        open=_open_milvus_sink,
        needs="text",
        needs_vectors=True,
    ),
    "neo4j": SinkSpec(
        title="Neo4j",
        content="one relationship per event with an item",
        connection="neo4j_default",
        address=lambda settings: settings.neo4j.uri,
        open=_open_neo4j_sink,
        needs="item_id",
    ),
    "warehouse": SinkSpec(
        title="PostgreSQL",
        content="every valid event as one row",
        connection="warehouse_default",
        address=lambda settings: settings.warehouse.dsn,
        open=_open_warehouse_sink,
    ),
}


def get_sink_spec(name: str) -> SinkSpec:
    """Raises ``ConfigurationError`` for a name that is not registered."""
    if name not in SINKS:
        raise ConfigurationError(f"unknown sink {name!r}; registered sinks: {', '.join(SINKS)}")
    return SINKS[name]


def open_sink(name: str, settings: Settings) -> Sink:
    """The sink of that name. Raises ``ConfigurationError`` for a name that is not registered."""
    spec = get_sink_spec(name)
    if memory := _memory_servers(spec.address(settings)):
        return memory.open_sink(name, spec.needs, spec.needs_vectors)
    return spec.open(settings)


def count_sinks(settings: Settings) -> dict[str, int]:
    """The number of distinct events in each store."""
    counts = {}
    for name in SINKS:
        with closing(open_sink(name, settings)) as sink:
            counts[name] = sink.count()
    return counts


def open_source(settings: Settings) -> KafkaSource | MemorySource:
    """The topic of events."""
    if memory := _memory_servers(settings.kafka.bootstrap):
        return memory.source
    from include.sources.kafka import KafkaSource

    return KafkaSource(settings.kafka)


def open_dead_letters(settings: Settings) -> KafkaDeadLetters | MemoryDeadLetters:
    """The topic of messages that are not valid events."""
    if memory := _memory_servers(settings.kafka.bootstrap):
        return memory.dead_letters
    from include.sources.kafka import KafkaDeadLetters

    return KafkaDeadLetters(settings.kafka)


def open_embedder(settings: Settings) -> OpenAIEmbedder | MemoryEmbedder:
    """The embedding server."""
    if memory := _memory_servers(settings.embed.url):
        return memory.open_embedder(settings.embed.generation)
    from include.embedders.openai import OpenAIEmbedder

    return OpenAIEmbedder(settings.embed)


def open_warehouse(settings: Settings) -> Warehouse:
    """The warehouse on PostgreSQL, with its statistics. Raises ``ConfigurationError`` for a memory:// address."""
    if _memory_servers(settings.warehouse.dsn):
        raise ConfigurationError("a warehouse in memory has no statistics: set MILLRACE_WAREHOUSE_DSN to PostgreSQL")
    from include.stores.warehouse.warehouse import Warehouse

    return Warehouse(settings.warehouse)


def open_lists(settings: Settings) -> RedisLists | MemoryLists:
    """The recommendation lists that the reader serves."""
    if memory := _memory_servers(settings.redis.url):
        return memory.lists
    from include.stores.redis import RedisLists

    return RedisLists(settings.redis)


def build_validator() -> Validator:
    """The Great Expectations suite."""
    from include.validation.great_expectations import GreatExpectationsValidator

    return GreatExpectationsValidator()


def open_files(settings: Settings) -> BatchStore:
    """The folder of files between tasks."""
    from include.stores.files import ArrowFiles

    return ArrowFiles(settings.pipeline.require_batch_path())


@contextmanager
def open_stage_ports(settings: Settings) -> Iterator[StagePorts]:
    """What ``pipeline.stage`` needs."""
    from include.pipeline.stage import StagePorts

    with (
        closing(open_source(settings)) as source,
        closing(open_dead_letters(settings)) as dead_letters,
        closing(open_pipeline_warehouse(settings)) as warehouse,
    ):
        yield StagePorts(
            source=source,
            dead_letters=dead_letters,
            validator=build_validator(),
            stored_versions=warehouse.stored_versions,
            ledger=warehouse.ledger,
            files=open_files(settings),
            open_sinks=lambda: _open_sinks(settings),
        )


@contextmanager
def _open_sinks(settings: Settings) -> Iterator[list[Sink]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(open_sink(name, settings))) for name in SINKS]


@contextmanager
def open_embed_ports(settings: Settings) -> Iterator[EmbedPorts]:
    """What ``pipeline.embed`` needs."""
    from include.pipeline.embed import EmbedPorts

    with closing(open_embedder(settings)) as embedder, closing(open_pipeline_warehouse(settings)) as warehouse:
        yield EmbedPorts(open_files(settings), embedder, warehouse.text_vectors)


@contextmanager
def open_upsert_ports(sink_name: str, settings: Settings) -> Iterator[UpsertPorts]:
    """What ``pipeline.upsert`` needs for one sink."""
    from include.pipeline.upsert import UpsertPorts

    with closing(open_sink(sink_name, settings)) as sink, closing(open_pipeline_warehouse(settings)) as warehouse:
        spec = get_sink_spec(sink_name)
        generation = settings.embed.generation if spec.needs_vectors else None
        percent = settings.pipeline.max_reject_percent
        settle = None if spec.needs is None else _settle_ports(warehouse, settings, [(sink, spec.needs_vectors)])
        yield UpsertPorts(open_files(settings), sink, generation, warehouse.ledger, percent, settle)


@contextmanager
def open_commit_ports(settings: Settings) -> Iterator[CommitPorts]:
    """What ``pipeline.commit`` needs."""
    from include.pipeline.commit import CommitPorts

    with closing(open_source(settings)) as source, closing(open_pipeline_warehouse(settings)) as warehouse:
        yield CommitPorts(
            warehouse.ledger, source, open_files(settings), lambda: _open_settle_ports(warehouse, settings)
        )


@contextmanager
def _open_settle_ports(warehouse: Warehouse | MemoryWarehouse, settings: Settings) -> Iterator[SettlePorts]:
    """Every sink that does not store every event."""
    with ExitStack() as stack:
        sinks = [
            (stack.enter_context(closing(open_sink(name, settings))), spec.needs_vectors)
            for name, spec in SINKS.items()
            if spec.needs is not None
        ]
        yield _settle_ports(warehouse, settings, sinks)


def _settle_ports(
    warehouse: Warehouse | MemoryWarehouse, settings: Settings, sinks: Sequence[tuple[Sink, bool]]
) -> SettlePorts:
    from include.pipeline.settle import SettlePorts

    return SettlePorts(warehouse.stored_versions, warehouse.text_vectors, settings.embed.generation, sinks)


@contextmanager
def open_replay_ports(settings: Settings) -> Iterator[ReplayPorts]:
    """What ``pipeline.replay`` needs."""
    from include.pipeline.replay import ReplayPorts

    with ExitStack() as stack:
        enter = stack.enter_context
        yield ReplayPorts(
            stage=enter(open_stage_ports(settings)),
            embed=enter(open_embed_ports(settings)),
            sinks={name: enter(open_upsert_ports(name, settings)) for name in SINKS},
            commit=enter(open_commit_ports(settings)),
        )


@contextmanager
def open_redrive_ports(settings: Settings) -> Iterator[RedrivePorts]:
    """What ``pipeline.redrive`` needs."""
    from include.pipeline.redrive import RedrivePorts

    with (
        closing(open_dead_letters(settings)) as letters,
        closing(open_source(settings)) as source,
        closing(_open_publisher(settings)) as publisher,
    ):
        yield RedrivePorts(letters, source, publisher)


def _open_publisher(settings: Settings) -> Publisher | MemoryPublisher:
    if memory := _memory_servers(settings.kafka.bootstrap):
        from include.sources.memory import MemoryPublisher

        return MemoryPublisher(memory.source)
    from include.sources.kafka_producer import Publisher

    return Publisher(settings.kafka)


@contextmanager
def open_aggregate_port(settings: Settings) -> Iterator[Engagement]:
    """What ``pipeline.aggregate`` needs."""
    with closing(open_pipeline_warehouse(settings)) as warehouse:
        yield warehouse.engagement


@contextmanager
def open_precompute_ports(settings: Settings) -> Iterator[PrecomputePorts]:
    """What ``pipeline.precompute`` needs."""
    from include.pipeline.precompute import PrecomputePorts

    with (
        closing(open_pipeline_warehouse(settings)) as warehouse,
        closing(_open_profiles(settings)) as profiles,
        closing(_open_graph(settings)) as graph,
        closing(open_lists(settings)) as lists,
    ):
        yield PrecomputePorts(
            activity=warehouse.activity,
            engagement=warehouse.engagement,
            text_vectors=warehouse.text_vectors,
            profiles=profiles,
            graph=graph,
            log=warehouse.engagement_log,
            models=warehouse.models,
            lists=lists,
            files=open_files(settings),
            generation=settings.embed.generation,
        )


def open_pipeline_warehouse(settings: Settings) -> Warehouse | MemoryWarehouse:
    """The ports of the warehouse, on PostgreSQL or in memory."""
    if memory := _memory_servers(settings.warehouse.dsn):
        return memory.warehouse
    return open_warehouse(settings)


def _open_profiles(settings: Settings) -> MilvusProfiles | MemoryProfiles:
    if memory := _memory_servers(settings.milvus.uri):
        return memory.profiles
    from include.stores.milvus import MilvusProfiles

    return MilvusProfiles(settings.milvus, settings.embed.generation)


def _open_graph(settings: Settings) -> Neo4jGraph | MemoryGraph:
    if memory := _memory_servers(settings.neo4j.uri):
        return memory.graph
    from include.stores.neo4j import Neo4jGraph

    return Neo4jGraph(settings.neo4j)


def open_similar_items(settings: Settings) -> Neo4jSimilarItems | MemorySimilarItems:
    """The relationships between similar items."""
    if memory := _memory_servers(settings.neo4j.uri):
        return memory.similar_items
    from include.stores.neo4j_similar import Neo4jSimilarItems

    return Neo4jSimilarItems(settings.neo4j)


def _memory_servers(address: str) -> MemoryServers | None:
    """The servers of a ``memory://`` address, None for any other."""
    if not address.startswith(MEMORY_SCHEME):
        return None
    from include.memory_servers import memory_servers

    return memory_servers(address)
