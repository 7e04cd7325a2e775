"""What the stored events say about users and items, for the precompute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import batched

import numpy as np
import pyarrow as pa

from include.domain.centre import should_recompute_centre
from include.domain.generation import Generation
from include.domain.mark import Mark
from include.stores.postgres import Database
from include.stores.warehouse.schema import SQL

_CENTRE_SAMPLE = 20_000
_USERS_PER_QUERY = 5_000
#: Users who are marked or cleared in one transaction, which has to end before the statement timeout.
USERS_PER_SLICE = 10_000


class WarehouseUserActivity:
    """``ports.UserActivity`` on the warehouse's events and marks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read_clock_ms(self) -> int:
        milliseconds: int = self._database.query(SQL["clock"])[0][0]
        return milliseconds

    def find_newest_event_ms(self) -> int | None:
        newest: datetime | None = self._database.query(SQL["newest_event"])[0][0]
        return None if newest is None else round(newest.timestamp() * 1000)

    def read_changed_users(self) -> Sequence[Mark]:
        return [Mark(user, seq) for user, seq in self._database.query(SQL["changed_users"])]

    def clear_changed_users(self, marks: Sequence[Mark]) -> None:
        for chunk in batched(marks, USERS_PER_SLICE):
            keys, seqs = [mark.key for mark in chunk], [mark.seq for mark in chunk]
            self._database.execute(SQL["clear_changed_users"], {"keys": keys, "seqs": seqs})

    def mark_changed_users(self, users: Sequence[str], batch_id: str) -> None:
        self._database.execute(SQL["mark_changed"], {"users": list(users), "batch": batch_id})

    def find_active_users(self, since_ms: int | None) -> Sequence[str]:
        since = datetime.min.replace(tzinfo=UTC) if since_ms is None else datetime.fromtimestamp(since_ms / 1000, UTC)
        return [user for (user,) in self._database.query(SQL["active_users"], {"since": since})]

    def filter_known_users(self, users: Sequence[str]) -> Sequence[str]:
        known: list[str] = []
        for chunk in batched(users, _USERS_PER_QUERY):
            known += [user for (user,) in self._database.query(SQL["known_users"], {"users": list(chunk)})]
        return known

    def count_texts(self, users: Sequence[str]) -> pa.Table:
        rows = self._database.query(SQL["count_user_texts"], {"users": list(users)})
        columns = list(zip(*rows, strict=True)) or [(), (), ()]
        types = (pa.string(), pa.string(), pa.int64())
        arrays = [pa.array(column, type=kind) for column, kind in zip(columns, types, strict=True)]
        return pa.table(arrays, names=["user_id", "text_hash", "events"])

    def read_item_texts(self, items: Sequence[str]) -> Mapping[str, str]:
        return dict(self._database.query(SQL["item_texts"], {"items": list(items)}))

    def refresh_text_centre(self, generation: Generation) -> np.ndarray | None:
        """Recompute the centre if the number of texts has doubled, which happens only a few times per generation."""
        where = {"generation": generation.name}
        stored = self._database.query(SQL["centre"], where)
        texts: int = self._database.query(SQL["count_texts"], where)[0][0]
        if should_recompute_centre(texts, stored[0][0] if stored else None):
            return self._store_new_centre(generation, texts)
        return np.frombuffer(stored[0][1], dtype="<f4") if stored else None

    def _store_new_centre(self, generation: Generation, texts: int) -> np.ndarray:
        """The mean of a sample. Every profile must follow it, so the centre is stored once every user is marked."""
        sample = self._database.query(SQL["sample_vectors"], {"generation": generation.name, "limit": _CENTRE_SAMPLE})
        vectors = [np.frombuffer(vector, dtype="<f4") for (vector,) in sample]
        centre = np.mean(vectors, axis=0, dtype=np.float64).astype("<f4")
        self._mark_every_user(f"centre-{generation.name}-{texts}")
        stored = {"generation": generation.name, "texts": texts, "centre": centre.tobytes()}
        self._database.execute(SQL["set_centre"], stored)
        return centre

    def _mark_every_user(self, batch: str) -> None:
        last: str | None = ""  # no id is empty
        while last is not None:
            parameters = {"batch": batch, "after": last, "limit": USERS_PER_SLICE}
            last = self._database.query(SQL["mark_next_users"], parameters)[0][0]
