"""The pipeline steps as Airflow's tasks run them: each store in its own process, with adapters opened every time."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from multiprocessing import get_context
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psycopg2

from include import bootstrap
from include.domain.batch import BatchRef, StagedBatch
from include.domain.generation import Generation
from include.domain.identity import text_hash
from include.pipeline.files import events_file, vectors_file
from include.pipeline.upsert import UpsertPorts, read_vectors, upsert
from include.ports import Sink
from include.settings import (
    EmbedSettings,
    EnvironmentSettings,
    KafkaSettings,
    MilvusSettings,
    MongoSettings,
    Neo4jSettings,
    PipelineSettings,
    RedisSettings,
    StoreSettings,
    WarehouseSettings,
)
from include.sinks.neo4j import Neo4jSink
from stack.stack import Stack
from tests.benchmarks.plain import NAMES, PlainWriter, open_plain_writer

_MODEL = "bench"


@dataclass(frozen=True)
class Settings:
    """``include.settings.Settings`` as plain fields, which a benchmark can replace and pass to processes."""

    kafka: KafkaSettings
    mongo: MongoSettings
    milvus: MilvusSettings
    neo4j: Neo4jSettings
    warehouse: WarehouseSettings
    redis: RedisSettings
    embed: EmbedSettings
    pipeline: PipelineSettings

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read every section."""
        settings = EnvironmentSettings(environment)
        return cls(**{section.name: getattr(settings, section.name) for section in fields(cls)})

    def store(self, name: str) -> StoreSettings:
        """The benchmarks have no stores without a section of their own."""
        raise NotImplementedError(name)


def build_settings(stack: Stack, topic: str, batch_size: int) -> Settings:
    """Build settings for the stack's servers, with a generation of random vectors that needs no embedding server."""
    settings = Settings.from_environment(stack.environment())
    return replace(
        settings,
        kafka=replace(settings.kafka, topic=topic, dead_letter_topic=f"{topic}.dead-letters", group=topic),
        embed=replace(settings.embed, model=_MODEL),
        pipeline=replace(settings.pipeline, batch_size=batch_size, as_of="newest_event", active_days=None),
    )


def create_stores(stack: Stack, settings: Settings, name: str) -> Settings:
    """Create empty stores with this name. Neo4j has only one database, so delete its graph in between."""
    admin = stack.secrets["postgres_admin"]
    connection = psycopg2.connect(f"postgresql://admin:{admin}@{stack.config.address('postgres')}/postgres")
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} OWNER {urlsplit(settings.warehouse.dsn).username}")
    connection.close()
    return replace(
        settings,
        mongo=replace(settings.mongo, database=name),
        milvus=replace(settings.milvus, message_collection=f"m_{name}", profile_collection=f"p_{name}"),
        warehouse=replace(settings.warehouse, dsn=f"{settings.warehouse.dsn.rpartition('/')[0]}/{name}"),
        pipeline=replace(settings.pipeline, batch_path=(stack.config.home / "files" / name).as_uri()),
    )


def plain_stores(settings: Settings) -> Settings:
    """Returns settings for the plain writers' stores: other files, and another table in the same warehouse."""
    name = f"plain_{settings.mongo.database}"
    return replace(
        settings,
        mongo=replace(settings.mongo, database=name),
        milvus=replace(settings.milvus, message_collection=f"m_{name}", profile_collection=f"p_{name}"),
        pipeline=replace(settings.pipeline, batch_path=f"{settings.pipeline.batch_path}-plain"),
    )


def count_events(name: str, settings: Settings) -> int:
    """Returns the number of events in this store."""
    with closing(bootstrap.open_sink(name, settings)) as sink:
        return sink.count()


def read_batch(settings: Settings, ref: BatchRef) -> StagedBatch:
    """Read a staged batch from its files."""
    files = bootstrap.open_files(settings)
    hashes, vectors = read_vectors(files.read(vectors_file(ref)))
    return StagedBatch(ref, files.read(events_file(ref)), hashes, vectors)


@dataclass(frozen=True)
class NoEmbedder:
    """Replaces the embedder when every text already has a vector."""

    generation: Generation

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Never called."""
        raise RuntimeError(f"{len(texts)} texts have no vector, for example {texts[0]!r}")


def store_random_vectors(settings: Settings, texts: Sequence[str]) -> None:
    """Store a random unit vector for each text in the warehouse."""
    generation = settings.embed.generation
    vectors = np.random.default_rng(20260).standard_normal((len(texts), generation.dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with closing(bootstrap.open_warehouse(settings)) as warehouse:
        for start in range(0, len(texts), 5_000):
            chunk = texts[start : start + 5_000]
            warehouse.text_vectors.put(generation, [text_hash(text) for text in chunk], vectors[start : start + 5_000])


@dataclass
class SinkTiming:
    """The seconds that the sink and the plain writer took for the same rows."""

    rows: int = 0
    sink_s: float = 0.0
    plain_s: float = 0.0
    batches: int = field(default=0, repr=False)

    def compare(self, step: Callable[[], int], writer: PlainWriter, batch: StagedBatch) -> bool:
        """Write one batch with each, alternating which one goes first. Returns whether both wrote as many rows."""
        expected = writer.prepare(batch)
        written = expected
        for is_sink in (self.batches % 2 == 0, self.batches % 2 == 1):
            started_at = time.perf_counter()
            if is_sink:
                written = step()
                self.sink_s += time.perf_counter() - started_at
            else:
                writer.write()
                self.plain_s += time.perf_counter() - started_at
        self.batches += 1
        self.rows += written
        return written == expected

    @property
    def ratio(self) -> float:
        """Returns the sink's rate relative to the plain writer's."""
        return self.plain_s / self.sink_s if self.sink_s else 0.0


def make_upsert_step(name: str, settings: Settings, sink: Sink, ref: BatchRef) -> Callable[[], int]:
    """Returns the upsert step of one batch, including reading its files."""
    generation = settings.embed.generation if bootstrap.get_sink_spec(name).needs_vectors else None
    ledger = bootstrap.open_warehouse(settings).ledger
    ports = UpsertPorts(bootstrap.open_files(settings), sink, generation, ledger)
    return lambda: upsert(ref, ports)


class Workers:
    """One process per store with everything imported, like Airflow's workers after ``plugins/preload.py``."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self._pools = {name: ProcessPoolExecutor(1, context, initializer=_ignore_interrupts) for name in NAMES}
        self.run_all(_import_sinks)

    def run_all(self, task: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """Run ``task(name, *arguments)`` for every store in parallel. Returns the results by store."""
        futures = {name: pool.submit(task, name, *arguments) for name, pool in self._pools.items()}
        return {name: future.result() for name, future in futures.items()}

    def close(self) -> None:
        """Stop the processes once they have finished their current task."""
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def start_workers() -> Iterator[Workers]:
    """Start one process per store and stop them on exit."""
    workers = Workers()
    try:
        yield workers
    finally:
        workers.close()


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent, which stops this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _import_sinks(_: str) -> None:
    """Import everything that the tasks need."""
    for store in NAMES:
        import_module(f"include.sinks.{store}")


def create_schema(name: str, settings: Settings) -> None:
    """Let the sink create its tables, constraints and collections."""
    with closing(bootstrap.open_sink(name, settings)) as sink:
        sink.count()
        if isinstance(sink, Neo4jSink):
            sink.prepare()


def copy_batch(settings: Settings, destination: Settings, ref: BatchRef) -> None:
    """Copy the files of a batch, because the commit deletes them."""
    source, target = bootstrap.open_files(settings), bootstrap.open_files(destination)
    for name in (events_file(ref), vectors_file(ref)):
        target.write(name, source.read(name))


def upsert_batch(name: str, settings: Settings, ref: BatchRef) -> float:
    """Run the task ``upsert_*``. Returns its duration in seconds."""
    started_at = time.perf_counter()
    with bootstrap.open_upsert_ports(name, settings) as ports:
        upsert(ref, ports)
    return time.perf_counter() - started_at


_WRITERS: dict[str, PlainWriter] = {}


def prepare_plain(name: str, settings: Settings, ref: BatchRef) -> int:
    """Prepare a batch for the plain writer of this process. Returns the number of rows."""
    if name not in _WRITERS:
        _WRITERS[name] = open_plain_writer(name, settings)
    return _WRITERS[name].prepare(read_batch(settings, ref))


def write_plain(name: str) -> float:
    """Write the prepared batch. Returns the duration in seconds."""
    started_at = time.perf_counter()
    _WRITERS[name].write()
    return time.perf_counter() - started_at


def close_plain(name: str) -> int:
    """Close the plain writer. Returns the number of rows in its server."""
    writer = _WRITERS.pop(name)
    count = writer.count()
    writer.close()
    return count
