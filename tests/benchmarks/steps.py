"""The pipeline's steps as Airflow's tasks run them: each store in a process of its own, adapters opened anew."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
from include.pipeline.upsert import upsert, vectors_of
from include.ports import Sink
from include.settings import Settings
from include.sinks.neo4j import Neo4jSink
from stack.credentials import load_or_create
from stack.stack import Stack
from tests.benchmarks.plain import NAMES, Plain, plain_writer

_MODEL = "bench"


def settings_of(stack: Stack, topic: str, batch: int) -> Settings:
    """The stack's servers, with a generation that no embedding server makes: its vectors are random."""
    found = Settings.from_environment(stack.environment())
    return replace(
        found,
        kafka=replace(found.kafka, topic=topic, dead_letter_topic=f"{topic}.dead-letters", group=topic),
        embed=replace(found.embed, model=_MODEL),
        pipeline=replace(found.pipeline, batch_size=batch, as_of="newest_event", active_days=None),
    )


def place(stack: Stack, settings: Settings, name: str) -> Settings:
    """Stores of this name, all empty. Neo4j has one database: it must be emptied between two places."""
    admin = load_or_create(stack.config.home).postgres_admin
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


def plain_place(settings: Settings) -> Settings:
    """Beside a place, stores for the plain writers: other files, and another table of the same warehouse."""
    name = f"plain_{settings.mongo.database}"
    return replace(
        settings,
        mongo=replace(settings.mongo, database=name),
        milvus=replace(settings.milvus, message_collection=f"m_{name}", profile_collection=f"p_{name}"),
        pipeline=replace(settings.pipeline, batch_path=f"{settings.pipeline.batch_path}-plain"),
    )


def open_sink(name: str, settings: Settings) -> Any:
    """The sink of that name; whoever opens it closes it."""
    match name:
        case "mongo":
            return bootstrap.mongo_sink(settings.mongo)
        case "milvus":
            return bootstrap.milvus_sink(settings.milvus, settings.embed.generation, settings.pipeline.shards)
        case "neo4j":
            return bootstrap.neo4j_sink(settings.neo4j)
        case _:
            return bootstrap.warehouse_sink(settings.warehouse)


def count_of(name: str, settings: Settings) -> int:
    """How many events that store holds."""
    with bootstrap.opened(open_sink(name, settings)) as (sink,):
        found: int = sink.count()
        return found


def staged(settings: Settings, ref: BatchRef) -> StagedBatch:
    """A batch from its files."""
    files = bootstrap.files(settings.pipeline)
    hashes, vectors = vectors_of(files.read(vectors_file(ref)))
    return StagedBatch(ref, files.read(events_file(ref)), hashes, vectors)


@dataclass(frozen=True)
class KnownVectors:
    """In place of the embedder: every text has its vector already, a random one."""

    generation: Generation

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Never needed."""
        raise RuntimeError(f"{len(texts)} texts have no vector, for instance {texts[0]!r}")


def give_vectors(settings: Settings, texts: Sequence[str]) -> None:
    """A random vector of length one for each text, into the warehouse."""
    generation = settings.embed.generation
    vectors = np.random.default_rng(20260).standard_normal((len(texts), generation.dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with bootstrap.opened(bootstrap.warehouse(settings.warehouse)) as (house,):
        for start in range(0, len(texts), 5_000):
            chunk = texts[start : start + 5_000]
            house.text_vectors.put(generation, [text_hash(text) for text in chunk], vectors[start : start + 5_000])


@dataclass
class Pair:
    """The same rows by our sink and by the server's own writer: seconds of each."""

    rows: int = 0
    own: float = 0.0
    plain: float = 0.0
    batches: int = field(default=0, repr=False)

    def compare(self, step: Callable[[], int], writer: Plain, batch: StagedBatch) -> bool:
        """One batch each way, taking turns in who comes first; whether both took as many rows."""
        expected = writer.prepare(batch)
        taken = expected
        for own in (self.batches % 2 == 0, self.batches % 2 == 1):
            began = time.perf_counter()
            if own:
                taken = step()
                self.own += time.perf_counter() - began
            else:
                writer.write()
                self.plain += time.perf_counter() - began
        self.batches += 1
        self.rows += taken
        return taken == expected

    @property
    def ratio(self) -> float:
        """Our rows a second by the server's."""
        return self.plain / self.own if self.own else 0.0


def sink_step(settings: Settings, sink: Sink, ref: BatchRef) -> Callable[[], int]:
    """The upsert step of one batch, its files included."""
    return lambda: upsert(ref, bootstrap.files(settings.pipeline), sink)


class Workers:
    """One process a store, warm, as Airflow's workers are after ``plugins/preload.py``."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self._pools = {name: ProcessPoolExecutor(1, context, initializer=_quiet) for name in NAMES}
        self.each(_warm)

    def each(self, task: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """``task(name, *arguments)`` for every store side by side; what each returned, once all have."""
        futures = {name: pool.submit(task, name, *arguments) for name, pool in self._pools.items()}
        return {name: future.result() for name, future in futures.items()}

    def close(self) -> None:
        """End the processes after what they are at."""
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def workers() -> Iterator[Workers]:
    """A process a store, ended at the end."""
    made = Workers()
    try:
        yield made
    finally:
        made.close()


def _quiet() -> None:
    """Ctrl-C is for the parent, which ends us."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _warm(_: str) -> None:
    """Import what the tasks need."""
    for store in NAMES:
        import_module(f"include.sinks.{store}")


def make_ready(name: str, settings: Settings) -> None:
    """Let the sink make its tables, constraints and collections."""
    with bootstrap.opened(open_sink(name, settings)) as (sink,):
        sink.count()
        if isinstance(sink, Neo4jSink):
            sink.prepare()


def copy_batch(settings: Settings, to: Settings, ref: BatchRef) -> None:
    """Keep a batch's files elsewhere: the commit deletes them."""
    source, target = bootstrap.files(settings.pipeline), bootstrap.files(to.pipeline)
    for name in (events_file(ref), vectors_file(ref)):
        target.write(name, source.read(name))


def upsert_batch(name: str, settings: Settings, ref: BatchRef) -> float:
    """The task ``upsert_*``; its seconds."""
    began = time.perf_counter()
    with bootstrap.opened(open_sink(name, settings)) as (sink,):
        upsert(ref, bootstrap.files(settings.pipeline), sink)
    return time.perf_counter() - began


_WRITERS: dict[str, Plain] = {}


def prepare_plain(name: str, settings: Settings, ref: BatchRef) -> int:
    """Make a batch ready for the plain writer of this process."""
    if name not in _WRITERS:
        _WRITERS[name] = plain_writer(name, settings)
    return _WRITERS[name].prepare(staged(settings, ref))


def write_plain(name: str) -> float:
    """Write what was prepared; its seconds."""
    began = time.perf_counter()
    _WRITERS[name].write()
    return time.perf_counter() - began


def close_plain(name: str) -> int:
    """Close the plain writer; how many rows its server holds."""
    writer = _WRITERS.pop(name)
    found = writer.count()
    writer.close()
    return found
