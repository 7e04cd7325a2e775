"""The events of the warehouse: stored contents, and the vectors of their texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from include.domain.batch import EVENT_SCHEMA
from include.domain.generation import Generation
from include.domain.precedence import Precedence, StoredVersion, compare_versions
from include.stores.postgres import Database
from include.stores.warehouse.schema import SQL

_CHUNK = 5_000
#: The columns of the statement ``stored_contents``.
_CONTENT = (
    "row", "event_id", "user_id", "message_id", "kind", "occurred_at", "text", "item_id", "campaign_id", "value",
    "version", "digest", "extra", "text_hash",
)  # fmt: skip


class WarehouseStoredVersions:
    """``ports.StoredVersions`` on the table of events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def compare(self, events: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        rows = self._query(SQL["stored_versions"], events)
        stored = (StoredVersion(row, Precedence(version, digest), revised) for row, version, digest, revised in rows)
        return compare_versions(events, stored)

    def read(self, events: pa.Table) -> pa.Table:
        origins = events.select(["offset", "published_at", "replaces"]).to_pylist()
        rows = (dict(zip(_CONTENT, row, strict=True)) for row in self._query(SQL["stored_contents"], events))
        return pa.Table.from_pylist([{**row, **origins[row["row"]]} for row in rows], schema=EVENT_SCHEMA)

    def _query(self, statement: str, events: pa.Table) -> list[tuple[Any, ...]]:
        identities = events.select(["user_id", "message_id"])
        identities = identities.append_column("row", pa.array(np.arange(events.num_rows, dtype=np.int32)))
        with self._database.transaction() as transaction:
            transaction.execute(SQL["create_identities"])
            transaction.copy("identities", identities)
            return transaction.query(statement)


class WarehouseTextVectors:
    """``ports.TextVectors`` in pipeline.text_vectors."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, generation: Generation, hashes: Sequence[str]) -> Mapping[str, np.ndarray]:
        vectors: dict[str, np.ndarray] = {}
        for start in range(0, len(hashes), _CHUNK):
            chunk = list(hashes[start : start + _CHUNK])
            rows = self._database.query(SQL["get_vectors"], {"generation": generation.name, "hashes": chunk})
            vectors.update((text_hash, np.frombuffer(vector, dtype="<f4")) for text_hash, vector in rows)
        return vectors

    def put(self, generation: Generation, hashes: Sequence[str], vectors: np.ndarray) -> None:
        rows = sorted(
            (generation.name, text_hash, vector.astype("<f4").tobytes())
            for text_hash, vector in zip(hashes, vectors, strict=True)
        )
        with self._database.transaction() as transaction:
            transaction.execute_values(SQL["put_vector"], rows)

    def mark_used(self, generation: Generation, hashes: Sequence[str]) -> None:
        for start in range(0, len(hashes), _CHUNK):
            chunk = list(hashes[start : start + _CHUNK])
            self._database.execute(SQL["mark_used"], {"generation": generation.name, "hashes": chunk})

    @contextmanager
    def lock(self, generation: Generation, part: str) -> Iterator[None]:
        # A session lock, not a transaction lock: the vectors are stored while it is held.
        name = {"name": f"millrace texts {generation.name} {part}"}
        self._database.query(SQL["lock_texts"], name)
        try:
            yield
        finally:
            self._database.query(SQL["unlock_texts"], name)
