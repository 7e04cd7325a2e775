"""Milvus: the connection, error translation, collections behind aliases, and the Profiles port."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import batched
from typing import Any

import grpc
import numpy as np
from pymilvus import DataType, MilvusClient
from pymilvus.exceptions import MilvusException, ParamError

from include import errors
from include.domain.generation import Generation
from include.settings import MilvusSettings

# pymilvus logs every error with its trace, and also raises it: the retry policy decides what to do about it.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)

#: Without a timeout pymilvus retries for minutes, and waits for ever for a server that hangs. Every call gets this one.
TIMEOUT_S = 30
#: After a restart, loading a collection takes about 20 s.
READY_S = 90

#: Reads that see every acknowledged write.
STRONG = "Strong"
#: A query returns at most 16,384 rows. Equal to the size of a write: the sink reads one chunk while it writes another.
ROWS_PER_QUERY = 5_000

#: Milvus counts bytes: an id has up to 128 characters of up to four bytes each.
ID_BYTES = 512

#: A request may have up to 64 MB; using a quarter of that keeps memory flat on both sides.
_BYTES_PER_WRITE = 16 * 2**20
_ROWS_PER_WRITE = 5_000

#: Error codes that no retry will change: parameter invalid, missing, too large; not authenticated, not permitted.
_PERMANENT_CODES = frozenset({1101, 1102, 1400, 1401})
#: A value that cannot be stored, such as a text that is too long (and a filter that cannot be parsed).
_REFUSALS = frozenset({1100})
_PERMANENT_RPCS = frozenset(
    {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED}
)

_USERS_PER_QUERY = 2_000
_VECTORS_PER_SEARCH = 500
#: The minimum number of HNSW search candidates: with fewer, the recall of 50 neighbours falls below .99.
_MIN_EF = 128

_BUILD: Mapping[str, Mapping[str, int]] = {
    "IVF_FLAT": {"nlist": 128},
    "HNSW": {"M": 16, "efConstruction": 200},
    "FLAT": {},
}


def connect(settings: MilvusSettings) -> MilvusClient:
    """A connected client. The caller closes it."""
    with translate_errors():
        return MilvusClient(settings.uri, token=settings.token, timeout=10)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise driver errors as a ``TransientError`` or ``PermanentError``; unknown ones count as transient."""
    try:
        yield
    except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError) as exc:
        kind = errors.PermanentError if _is_permanent(exc) else errors.TransientError
        if isinstance(exc, ParamError) or getattr(exc, "code", None) in _REFUSALS:
            kind = errors.RefusedError
        # Its message may quote a row or a filter.
        raise kind(f"Milvus: {type(exc).__name__}{_code(exc)}; check milvus_default and the server's log") from None


def _code(exc: Exception) -> str:
    code = exc.code if isinstance(exc, MilvusException) else exc.code() if isinstance(exc, grpc.Call) else None
    return "" if code is None else f", code {getattr(code, 'name', code)}"


def _is_permanent(exc: Exception) -> bool:
    if isinstance(exc, MilvusException):
        return isinstance(exc, ParamError) or exc.code in _PERMANENT_CODES or exc.code in _PERMANENT_RPCS
    return isinstance(exc, grpc.Call) and exc.code() in _PERMANENT_RPCS


def quote(text: str) -> str:
    """``text`` as a quoted string in a filter. Milvus before 2.5 has no filter parameters, and pymilvus quotes ``ids``
    without escaping them.
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


def any_of(field: str, values: Sequence[str]) -> str:
    """A filter for the rows whose ``field`` is one of ``values``, whatever characters they contain."""
    return f"{field} in [{','.join(map(quote, values))}]"


@dataclass(frozen=True)
class VectorCollection:
    """A collection of vectors of one generation, by a string key ``id``, behind an alias.

    ``fields`` are the scalar fields other than ``id`` and ``vector``; ``partitions`` are its named partitions.
    """

    alias: str
    generation: str
    dimension: int
    index: str
    fields: Mapping[str, DataType]
    partitions: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Every generation has its own collection, so that vectors of two generations are never mixed."""
        return f"{self.alias}_{self.generation}"

    def prepare(self, client: MilvusClient) -> None:
        """Create what is missing, load it, and return when it answers. Idempotent, also concurrently."""
        if not client.has_collection(self.name, timeout=TIMEOUT_S):
            client.create_collection(self.name, schema=self._schema(), consistency_level=STRONG, timeout=TIMEOUT_S)
        # The index is created after the partitions: if it exists, they are complete.
        if not client.list_indexes(self.name, timeout=TIMEOUT_S):
            for partition in self.partitions:
                client.create_partition(self.name, partition, timeout=TIMEOUT_S)
            client.create_index(self.name, self._index(), timeout=TIMEOUT_S)
        self._check_partitions(client)
        client.load_collection(self.name, timeout=READY_S)
        self._wait_until_ready(client)
        if not client.has_collection(self.alias, timeout=TIMEOUT_S):
            client.create_alias(self.name, self.alias, timeout=TIMEOUT_S)

    def open(self, client: MilvusClient) -> bool:
        """Load the collection for reading, and return when it answers. Returns False if it does not exist."""
        if not client.has_collection(self.name, timeout=TIMEOUT_S):
            return False
        client.load_collection(self.name, timeout=READY_S)
        self._wait_until_ready(client)
        return True

    def upsert(self, client: MilvusClient, rows: Sequence[Mapping[str, Any]], partition: str = "") -> None:
        """Write rows with distinct keys, in requests of bounded size."""
        size = max(1, min(_ROWS_PER_WRITE, _BYTES_PER_WRITE // (4 * self.dimension + 256)))
        for start in range(0, len(rows), size):
            client.upsert(self.name, list(rows[start : start + size]), partition_name=partition, timeout=TIMEOUT_S)

    def count(self, client: MilvusClient) -> int:
        """Returns the number of rows, including every acknowledged write."""
        (row,) = client.query(
            self.name, filter="", output_fields=["count(*)"], consistency_level=STRONG, timeout=TIMEOUT_S
        )
        return int(row["count(*)"])

    def _check_partitions(self, client: MilvusClient) -> None:
        present = len(set(client.list_partitions(self.name, timeout=TIMEOUT_S)) - {"_default"})
        if present != len(self.partitions):
            raise errors.ConfigurationError(
                f"shards is {len(self.partitions)}, but the Milvus collection {self.name} was created with {present}: "
                "rows would be looked up in the wrong partitions. Set shards back, or drop the collection and replay"
            )

    def _wait_until_ready(self, client: MilvusClient) -> None:
        """Only a real query can tell: Milvus reports a collection as loaded before it answers."""
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
        # The key must be called ``id``: with another name Milvus 2.3 and pymilvus disagree on the key of a hit.
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
    """One vector per user, of one generation, in an HNSW index: few rows, searched often."""

    def __init__(self, settings: MilvusSettings, generation: Generation) -> None:
        self._client = connect(settings)
        self._vectors = VectorCollection(
            settings.profile_collection, generation.name, generation.dimension, "HNSW", fields={}
        )
        self._prepared = False

    def prepare(self) -> None:
        """Create and load the collection. Idempotent; the first use in each process calls it."""
        with translate_errors():
            self._vectors.prepare(self._client)
        self._prepared = True

    def put(self, users: Sequence[str], vectors: np.ndarray) -> None:
        """Store one vector per user, the last one if a user occurs twice. Never store a zero vector."""
        self._ensure_prepared()
        by_user = dict(zip(users, np.asarray(vectors, dtype=np.float32), strict=True))
        with translate_errors():
            self._vectors.upsert(self._client, [{"id": user, "vector": vector} for user, vector in by_user.items()])

    def delete(self, users: Sequence[str]) -> None:
        """Delete the vectors of these users; a user without one changes nothing."""
        self._ensure_prepared()
        for chunk in batched(users, _USERS_PER_QUERY):
            with translate_errors():
                self._client.delete(self._vectors.name, filter=any_of("id", chunk), timeout=TIMEOUT_S)

    def get(self, users: Sequence[str]) -> Mapping[str, np.ndarray]:
        """The vectors of the users who have one."""
        self._ensure_prepared()
        stored: dict[str, np.ndarray] = {}
        for start in range(0, len(users), _USERS_PER_QUERY):
            with translate_errors():
                rows = self._client.query(
                    self._vectors.name,
                    filter=any_of("id", users[start : start + _USERS_PER_QUERY]),
                    output_fields=["id", "vector"],
                    consistency_level=STRONG,
                    timeout=TIMEOUT_S,
                )
            stored.update({row["id"]: np.asarray(row["vector"], dtype=np.float32) for row in rows})
        return stored

    def search(self, vectors: np.ndarray, limit: int) -> Sequence[Sequence[tuple[str, float]]]:
        """For each vector the ``limit`` nearest users by cosine, best first; a stored vector also finds itself."""
        self._ensure_prepared()
        queries = np.asarray(vectors, dtype=np.float32)
        answers: list[list[tuple[str, float]]] = []
        for start in range(0, len(queries), _VECTORS_PER_SEARCH):
            with translate_errors():
                hits = self._client.search(
                    self._vectors.name,
                    data=list(queries[start : start + _VECTORS_PER_SEARCH]),
                    limit=limit,
                    search_params={"metric_type": "COSINE", "params": {"ef": max(2 * limit, _MIN_EF)}},
                    consistency_level=STRONG,
                    timeout=TIMEOUT_S,
                )
                answers.extend([(hit["id"], hit["distance"]) for hit in row] for row in hits)
        return answers

    def close(self) -> None:
        """Close the connection. Do not use the profiles after closing."""
        self._client.close()

    def _ensure_prepared(self) -> None:
        if not self._prepared:
            self.prepare()
