"""The events of the warehouse: which contents stand, and the vectors of their texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa

from include.domain.generation import Generation
from include.stores.postgres import Database
from include.stores.warehouse.schema import SQL

_CHUNK = 5_000


class WarehouseStanding:
    """``ports.Standing`` over the table of events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def standing(self, events: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        newer = np.zeros(events.num_rows, dtype=bool)
        revises = np.zeros(events.num_rows, dtype=bool)
        asked = events.select(["user_id", "message_id", "version", "digest"])
        asked = asked.append_column("row", pa.array(np.arange(events.num_rows, dtype=np.int32)))
        with self._database.transaction() as transaction:
            transaction.run(SQL["asked_identities"])
            transaction.copy("asked", asked)
            for row, is_newer, is_revision in transaction.rows(SQL["standing"]):
                newer[row], revises[row] = is_newer, is_revision
        return newer, revises


class WarehouseTextVectors:
    """``ports.TextVectors`` in pipeline.text_vectors."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, generation: Generation, hashes: Sequence[str]) -> Mapping[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for start in range(0, len(hashes), _CHUNK):
            chunk = list(hashes[start : start + _CHUNK])
            rows = self._database.rows(SQL["get_vectors"], {"generation": generation.name, "hashes": chunk})
            found.update((text_hash, np.frombuffer(vector, dtype="<f4")) for text_hash, vector in rows)
        return found

    def put(self, generation: Generation, hashes: Sequence[str], vectors: np.ndarray) -> None:
        rows = sorted(
            (generation.name, text_hash, vector.astype("<f4").tobytes())
            for text_hash, vector in zip(hashes, vectors, strict=True)
        )
        with self._database.transaction() as transaction:
            transaction.values(SQL["put_vector"], rows)

    @contextmanager
    def lock(self, generation: Generation, part: str) -> Iterator[None]:
        # The lock belongs to the session, not to a transaction: the vectors are put while it is held.
        name = {"name": f"millrace texts {generation.name} {part}"}
        self._database.rows(SQL["lock_texts"], name)
        try:
            yield
        finally:
            self._database.rows(SQL["unlock_texts"], name)
