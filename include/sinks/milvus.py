"""One vector per event with a text."""

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
from include.domain.precedence import Precedence
from include.errors import PermanentError
from include.settings import MilvusSettings
from include.stores.milvus import ROWS_PER_QUERY, STRONG, TIMEOUT_S, VectorCollection, connect, translate_errors

_FIELDS: Mapping[str, DataType] = {
    "user_id": DataType.VARCHAR,
    "occurred_at": DataType.INT64,
    "version": DataType.INT64,
    "digest": DataType.VARCHAR,
}

type Precedences = Mapping[str, Precedence]


class _Chunk(NamedTuple):
    """Some events of a batch whose vectors belong to one partition."""

    partition: str
    events: pa.Table


class MilvusSink:
    """Reads before it writes: Milvus has no conditional write, and upserting an unchanged row costs a delete, an insert
    and an index build.

    No other process may write the same identity between the read and the write; one active run per shard ensures that.
    When the winner has no text, the vector of a losing revision is deleted; ``replaces`` says that there may be one.
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
            partitions=[_partition_name(shard) for shard in range(shards)],
        )
        self._prepared = False

    def prepare(self) -> None:
        """Create and load the collection. Idempotent; the first use in each process calls it."""
        with translate_errors():
            self._vectors.prepare(self._client)
        self._prepared = True

    def upsert(self, batch: StagedBatch) -> int:
        """Store a vector for each event with a text."""
        self._ensure_prepared()
        has_text = pc.is_valid(batch.events.column("text"))
        relevant = batch.events.filter(pc.or_(has_text, batch.events.column("replaces")))
        vector_rows = {text_hash: row for row, text_hash in enumerate(batch.text_hashes)}
        with translate_errors():
            for chunk, stored in self._read_ahead(self._split(relevant)):
                self._store(chunk, stored, vector_rows, batch.vectors)
        return int(pc.sum(has_text).as_py() or 0)

    def delete(self, rows: pa.Table) -> int:
        """Delete the vectors of these events unless a newer revision is stored."""
        self._ensure_prepared()
        deleted = 0
        with translate_errors():
            for chunk, stored in self._read_ahead(self._split(rows)):
                columns = chunk.events.select(["event_id", "version", "digest"]).to_pydict().values()
                ids = [
                    event_id
                    for event_id, version, digest in zip(*columns, strict=True)
                    if event_id in stored and stored[event_id] <= Precedence(version, digest)
                ]
                self._delete(ids, chunk.partition)
                deleted += len(ids)
        return deleted

    def count(self) -> int:
        """Returns the number of events that have a vector of this generation."""
        self._ensure_prepared()
        with translate_errors():
            return self._vectors.count(self._client)

    def close(self) -> None:
        """Close the connection. Do not use the sink after closing it."""
        self._client.close()

    def _ensure_prepared(self) -> None:
        if not self._prepared:
            self.prepare()

    def _by_partition(self, events: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        """Events by partition, which depends only on the user, not on the Kafka partition: a row must never move."""
        users = events.column("user_id").combine_chunks().dictionary_encode()
        shards = np.array([shard_of(user, self._shards) for user in users.dictionary.to_pylist()], dtype=np.int64)
        shard_of_row = shards[users.indices.to_numpy()] if len(shards) else shards
        for shard in np.unique(shard_of_row):
            yield _partition_name(int(shard)), events.filter(pa.array(shard_of_row == shard))

    def _split(self, events: pa.Table) -> Iterator[_Chunk]:
        for partition, rows in self._by_partition(events):
            for start in range(0, rows.num_rows, ROWS_PER_QUERY):
                yield _Chunk(partition, rows.slice(start, ROWS_PER_QUERY))

    def _read_ahead(self, chunks: Iterable[_Chunk]) -> Iterator[tuple[_Chunk, Precedences]]:
        """Each chunk with its stored precedences, reading the next chunk ahead while the caller writes this one.

        A strongly consistent read waits a fraction of a second for the server's clock, however few rows it is for. No
        two chunks share an event, so writing one cannot affect what was read for another.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="milvus") as reader:
            previous: tuple[_Chunk, Future[Precedences]] | None = None
            for chunk in chunks:
                current = chunk, reader.submit(self._read_stored, chunk)
                if previous is not None:
                    yield previous[0], previous[1].result()
                previous = current
            if previous is not None:
                yield previous[0], previous[1].result()

    def _store(self, chunk: _Chunk, stored: Precedences, vector_rows: Mapping[str, int], vectors: np.ndarray) -> None:
        rows, deleted = [], []
        for row in _to_rows(chunk.events):
            text_hash = row.pop("text_hash")
            older = stored.get(row["id"])
            if older is not None and older >= Precedence(row["version"], row["digest"]):
                continue
            if text_hash is not None:
                row["vector"] = vectors[_find_vector(vector_rows, text_hash)]
                rows.append(row)
            elif older is not None:
                deleted.append(row["id"])
        self._vectors.upsert(self._client, rows, chunk.partition)
        self._delete(deleted, chunk.partition)

    def _delete(self, ids: list[str], partition: str) -> None:
        if ids:
            self._client.delete(self._vectors.name, ids=ids, partition_name=partition, timeout=TIMEOUT_S)

    def _read_stored(self, chunk: _Chunk) -> Precedences:
        rows = self._client.query(
            self._vectors.name,
            ids=chunk.events.column("event_id").to_pylist(),
            output_fields=["id", "version", "digest"],
            partition_names=[chunk.partition],
            consistency_level=STRONG,
            timeout=TIMEOUT_S,
        )
        return {row["id"]: Precedence(row["version"], row["digest"]) for row in rows}


def _partition_name(shard: int) -> str:
    return f"shard_{shard:03d}"


def _to_rows(events: pa.Table) -> Iterator[dict[str, Any]]:
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


def _find_vector(vector_rows: Mapping[str, int], text_hash: str) -> int:
    try:
        return vector_rows[text_hash]
    except KeyError:
        raise PermanentError("the batch has no vector for one of its texts: clear the run from embed on") from None
