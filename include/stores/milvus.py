"""Milvus: the connection, its errors as ours, and collections behind aliases, and the Profiles port."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from pymilvus import DataType, MilvusClient
from pymilvus.exceptions import MilvusException, ParamError

from include import errors
from include.domain.generation import Generation
from include.settings import MilvusSettings

# What it logs as an error, with a trace, it raises as well, and we may be about to try again.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)

#: Without a timeout pymilvus tries for minutes, and waits for ever for a server that hangs. Every call gets this one.
TIMEOUT_S = 30
#: After a restart a collection takes some 20 s to be loaded again.
READY_S = 90

#: Reads that see every acknowledged write.
STRONG = "Strong"
#: One query answers at most 16,384 rows; as many as a write holds, so that the next one waits while these are written.
ROWS_PER_QUERY = 5_000

#: Milvus counts bytes: an id has up to 128 characters of up to four.
ID_BYTES = 512

#: A request may have 64 MB; a quarter of it keeps memory flat on both sides.
_BYTES_PER_WRITE = 16 * 2**20
_ROWS_PER_WRITE = 5_000

#: Answers that no retry will change: parameter invalid, missing, too large; not authenticated, not permitted.
_PERMANENT_CODES = frozenset({1100, 1101, 1102, 1400, 1401})
_PERMANENT_RPCS = frozenset(
    {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED}
)

_USERS_PER_QUERY = 2_000
_VECTORS_PER_SEARCH = 500
#: How many candidates HNSW keeps at least: below about this many the recall of 50 neighbours falls under .99.
_LEAST_EF = 128

_BUILD: Mapping[str, Mapping[str, int]] = {
    "IVF_FLAT": {"nlist": 128},
    "HNSW": {"M": 16, "efConstruction": 200},
    "FLAT": {},
}


def connect(settings: MilvusSettings) -> MilvusClient:
    """A connected client. The caller closes it."""
    with translated():
        return MilvusClient(settings.uri, token=settings.token, timeout=10)


@contextmanager
def translated() -> Iterator[None]:
    """The driver's errors as ours: what passes by itself is transient, and what we do not know is too."""
    try:
        yield
    except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError) as exc:
        kind = errors.PermanentError if _is_permanent(exc) else errors.TransientError
        raise kind(f"Milvus: {exc}") from exc


def _is_permanent(exc: Exception) -> bool:
    if isinstance(exc, MilvusException):
        return isinstance(exc, ParamError) or exc.code in _PERMANENT_CODES or exc.code in _PERMANENT_RPCS
    return isinstance(exc, grpc.Call) and exc.code() in _PERMANENT_RPCS


def literal(text: str) -> str:
    """``text`` as a string in a filter. Needed because Milvus before 2.5 takes no filter parameters, and pymilvus
    puts ``ids`` between quotes as they are."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


def any_of(field: str, values: Sequence[str]) -> str:
    """A filter for the rows whose ``field`` is one of ``values``, whatever characters these have."""
    return f"{field} in [{','.join(map(literal, values))}]"


@dataclass(frozen=True)
class VectorCollection:
    """One collection of vectors by a string key ``id``, of one generation, behind an alias.

    ``fields`` are the scalar fields beside ``id`` and ``vector``; ``partitions`` its named partitions.
    """

    alias: str
    generation: str
    dimension: int
    index: str
    fields: Mapping[str, DataType]
    partitions: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Writers use the name, readers the alias: a new generation is filled while the old one is read."""
        return f"{self.alias}_{self.generation}"

    def prepare(self, client: MilvusClient) -> None:
        """Make what is missing, load it, and return when it answers. May run again, and beside itself."""
        if not client.has_collection(self.name, timeout=TIMEOUT_S):
            client.create_collection(self.name, schema=self._schema(), consistency_level=STRONG, timeout=TIMEOUT_S)
        # The index comes after the partitions: once it is there, they are complete.
        if not client.list_indexes(self.name, timeout=TIMEOUT_S):
            for partition in self.partitions:
                client.create_partition(self.name, partition, timeout=TIMEOUT_S)
            client.create_index(self.name, self._index(), timeout=TIMEOUT_S)
        self._check_partitions(client)
        client.load_collection(self.name, timeout=READY_S)
        self._wait_until_ready(client)
        if not client.has_collection(self.alias, timeout=TIMEOUT_S):
            client.create_alias(self.name, self.alias, timeout=TIMEOUT_S)

    def activate(self, client: MilvusClient) -> None:
        """Point the alias here: from now on readers see this generation."""
        client.alter_alias(self.name, self.alias, timeout=TIMEOUT_S)

    def upsert(self, client: MilvusClient, rows: Sequence[Mapping[str, Any]], partition: str = "") -> None:
        """Write rows, each key once, in requests of a bounded size."""
        size = max(1, min(_ROWS_PER_WRITE, _BYTES_PER_WRITE // (4 * self.dimension + 256)))
        for start in range(0, len(rows), size):
            client.upsert(self.name, list(rows[start : start + size]), partition_name=partition, timeout=TIMEOUT_S)

    def count(self, client: MilvusClient) -> int:
        """How many rows there are; sees every acknowledged write."""
        (row,) = client.query(
            self.name, filter="", output_fields=["count(*)"], consistency_level=STRONG, timeout=TIMEOUT_S
        )
        return int(row["count(*)"])

    def _check_partitions(self, client: MilvusClient) -> None:
        present = len(set(client.list_partitions(self.name, timeout=TIMEOUT_S)) - {"_default"})
        if present != len(self.partitions):
            raise errors.ConfigurationError(
                f"shards is {len(self.partitions)}, but the Milvus collection {self.name} was made for {present}: its "
                "rows would be looked for in the wrong partitions. Set shards back, or drop the collection and replay"
            )

    def _wait_until_ready(self, client: MilvusClient) -> None:
        """Only a real query tells: a collection is called loaded before it answers."""
        deadline = time.monotonic() + READY_S
        while True:
            try:
                client.query(self.name, ids=["-"], output_fields=["id"], consistency_level=STRONG, timeout=5)
                return
            except (MilvusException, grpc.RpcError) as exc:
                if _is_permanent(exc) or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def _schema(self) -> Any:
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        # The key is called ``id``: under any other name Milvus 2.3 gives a hit's key as that name and pymilvus as id.
        schema.add_field("id", DataType.VARCHAR, max_length=ID_BYTES, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self.dimension)
        for name, kind in self.fields.items():
            length = {"max_length": ID_BYTES} if kind == DataType.VARCHAR else {}
            schema.add_field(name, kind, **length)
        return schema

    def _index(self) -> Any:
        index = MilvusClient.prepare_index_params()
        index.add_index("vector", index_type=self.index, metric_type="COSINE", params=dict(_BUILD[self.index]))
        return index


class MilvusProfiles:
    """One vector a user, of one generation, in an HNSW index: few rows, searched often."""

    def __init__(self, settings: MilvusSettings, generation: Generation) -> None:
        self._client = connect(settings)
        self._vectors = VectorCollection(
            settings.profile_collection, generation.name, generation.dimension, "HNSW", fields={}
        )
        self._prepared = False

    def prepare(self) -> None:
        """Make and load the collection. May run again; the first call of each process does it by itself."""
        with translated():
            self._vectors.prepare(self._client)
        self._prepared = True

    def activate(self) -> None:
        """Point the alias of the profiles at this generation."""
        self._ready()
        with translated():
            self._vectors.activate(self._client)

    def put(self, users: Sequence[str], vectors: np.ndarray) -> None:
        """Store one vector a user, the last if a user comes twice. Zero vectors have no direction: never put one."""
        self._ready()
        last = dict(zip(users, np.asarray(vectors, dtype=np.float32), strict=True))
        with translated():
            self._vectors.upsert(self._client, [{"id": user, "vector": vector} for user, vector in last.items()])

    def get(self, users: Sequence[str]) -> Mapping[str, np.ndarray]:
        """The vectors of those users who have one."""
        self._ready()
        found: dict[str, np.ndarray] = {}
        for start in range(0, len(users), _USERS_PER_QUERY):
            with translated():
                rows = self._client.query(
                    self._vectors.name,
                    filter=any_of("id", users[start : start + _USERS_PER_QUERY]),
                    output_fields=["id", "vector"],
                    consistency_level=STRONG,
                    timeout=TIMEOUT_S,
                )
            found.update({row["id"]: np.asarray(row["vector"], dtype=np.float32) for row in rows})
        return found

    def similar(self, vectors: np.ndarray, limit: int) -> Sequence[Sequence[tuple[str, float]]]:
        """For each vector the ``limit`` users nearest by cosine, best first; a stored vector finds itself too."""
        self._ready()
        queries = np.asarray(vectors, dtype=np.float32)
        answers: list[list[tuple[str, float]]] = []
        for start in range(0, len(queries), _VECTORS_PER_SEARCH):
            with translated():
                hits = self._client.search(
                    self._vectors.name,
                    data=list(queries[start : start + _VECTORS_PER_SEARCH]),
                    limit=limit,
                    search_params={"metric_type": "COSINE", "params": {"ef": max(2 * limit, _LEAST_EF)}},
                    consistency_level=STRONG,
                    timeout=TIMEOUT_S,
                )
                answers.extend([(hit["id"], hit["distance"]) for hit in row] for row in hits)
        return answers

    def close(self) -> None:
        """Close the connection. The profiles are of no use afterwards."""
        self._client.close()

    def _ready(self) -> None:
        if not self._prepared:
            self.prepare()
