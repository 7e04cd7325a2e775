"""A vector for each event with a text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pymilvus import DataType

from include.domain.batch import StagedBatch
from include.domain.generation import Generation
from include.domain.identity import shard_of
from include.errors import PermanentError
from include.settings import MilvusSettings
from include.stores.milvus import ROWS_PER_QUERY, STRONG, TIMEOUT_S, VectorCollection, connect, translated

_FIELDS: Mapping[str, DataType] = {
    "user_id": DataType.VARCHAR,
    "occurred_at": DataType.INT64,
    "version": DataType.INT64,
    "digest": DataType.VARCHAR,
}

type Contents = Mapping[str, tuple[int, str]]


class _Chunk(NamedTuple):
    """Some events of a batch whose vectors lie in one partition."""

    partition: str
    events: pa.Table


class MilvusSink:
    """Reads before it writes: Milvus has no conditional write, and an upsert of the same row costs a delete, an
    insert and index building once more.

    Between the reading and the writing nobody else may write the same identity; one run a shard sees to that.
    An event that has lost its text takes its older vector away, where ``replaces`` says that there may be one.
    """

    name = "milvus"

    def __init__(self, settings: MilvusSettings, generation: Generation, shards: int) -> None:
        self._client = connect(settings)
        self._shards = shards
        self._vectors = VectorCollection(
            alias=settings.message_collection,
            generation=generation.name,
            dimension=generation.dimension,
            index=settings.message_index,
            fields=_FIELDS,
            partitions=[_partition(shard) for shard in range(shards)],
        )
        self._prepared = False

    def prepare(self) -> None:
        """Make and load the collection. May run again; the first write of each process does it by itself."""
        with translated():
            self._vectors.prepare(self._client)
        self._prepared = True

    def activate(self) -> None:
        """Point the alias of the messages at this generation."""
        self._ready()
        with translated():
            self._vectors.activate(self._client)

    def upsert(self, batch: StagedBatch) -> int:
        """Store a vector for each event with a text."""
        self._ready()
        has_text = pc.is_valid(batch.events.column("text"))
        concerned = batch.events.filter(pc.or_(has_text, batch.events.column("replaces")))
        position = {text_hash: row for row, text_hash in enumerate(batch.text_hashes)}
        with translated():
            for chunk, stored in self._read_ahead(self._chunks(concerned)):
                self._store(chunk, stored, position, batch.vectors)
        return int(pc.sum(has_text).as_py() or 0)

    def count(self) -> int:
        """How many events have a vector of this generation."""
        self._ready()
        with translated():
            return self._vectors.count(self._client)

    def close(self) -> None:
        """Close the connection. The sink is of no use afterwards."""
        self._client.close()

    def _ready(self) -> None:
        if not self._prepared:
            self.prepare()

    def _by_partition(self, events: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        """By the user alone, never by where the event stood in Kafka: a row must not change its partition."""
        users = events.column("user_id").combine_chunks().dictionary_encode()
        shards = np.array([shard_of(user, self._shards) for user in users.dictionary.to_pylist()], dtype=np.int64)
        shard_of_row = shards[users.indices.to_numpy()] if len(shards) else shards
        for shard in np.unique(shard_of_row):
            yield _partition(int(shard)), events.filter(pa.array(shard_of_row == shard))

    def _chunks(self, events: pa.Table) -> Iterator[_Chunk]:
        for partition, rows in self._by_partition(events):
            for start in range(0, rows.num_rows, ROWS_PER_QUERY):
                yield _Chunk(partition, rows.slice(start, ROWS_PER_QUERY))

    def _read_ahead(self, chunks: Iterable[_Chunk]) -> Iterator[tuple[_Chunk, Contents]]:
        """Each chunk with what is stored of it, while what is stored of the next one is asked for.

        A read that sees every write waits a fraction of a second for the server's clock, however few rows it is
        for. No two chunks of a batch have an event in common, so writing one changes nothing of the other.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="milvus") as ahead:
            waiting: tuple[_Chunk, Future[Contents]] | None = None
            for chunk in chunks:
                coming = chunk, ahead.submit(self._stored, chunk)
                if waiting is not None:
                    yield waiting[0], waiting[1].result()
                waiting = coming
            if waiting is not None:
                yield waiting[0], waiting[1].result()

    def _store(self, chunk: _Chunk, stored: Contents, position: Mapping[str, int], vectors: np.ndarray) -> None:
        rows, gone = [], []
        for row in _rows(chunk.events):
            text_hash = row.pop("text_hash")
            known = stored.get(row["id"])
            if known is not None and known >= (row["version"], row["digest"]):
                continue
            if text_hash is not None:
                row["vector"] = vectors[_vector_of(position, text_hash)]
                rows.append(row)
            elif known is not None:
                gone.append(row["id"])
        self._vectors.upsert(self._client, rows, chunk.partition)
        if gone:
            self._client.delete(self._vectors.name, ids=gone, partition_name=chunk.partition, timeout=TIMEOUT_S)

    def _stored(self, chunk: _Chunk) -> Contents:
        found = self._client.query(
            self._vectors.name,
            ids=chunk.events.column("event_id").to_pylist(),
            output_fields=["id", "version", "digest"],
            partition_names=[chunk.partition],
            consistency_level=STRONG,
            timeout=TIMEOUT_S,
        )
        return {row["id"]: (row["version"], row["digest"]) for row in found}


def _partition(shard: int) -> str:
    return f"shard_{shard:03d}"


def _rows(events: pa.Table) -> Iterator[dict[str, Any]]:
    names = ("id", "user_id", "occurred_at", "version", "digest", "text_hash")
    columns = [
        events.column("event_id").to_pylist(),
        events.column("user_id").to_pylist(),
        events.column("occurred_at").cast(pa.int64()).to_pylist(),
        events.column("version").to_pylist(),
        events.column("digest").to_pylist(),
        events.column("text_hash").to_pylist(),
    ]
    for values in zip(*columns, strict=True):
        yield dict(zip(names, values, strict=True))


def _vector_of(position: Mapping[str, int], text_hash: str) -> int:
    try:
        return position[text_hash]
    except KeyError:
        raise PermanentError(f"the batch has no vector for the text {text_hash}: clear the run from embed on") from None
