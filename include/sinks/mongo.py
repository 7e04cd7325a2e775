"""Every valid event as one MongoDB document."""

from __future__ import annotations

from collections.abc import Sequence

import pymongo
from pymongo import ReplaceOne
from pymongo.errors import BulkWriteError

from include.domain.batch import StagedBatch
from include.errors import TransientError
from include.settings import MongoSettings
from include.stores.mongo import DUPLICATE_KEY, Document, documents, events_collection, translated

CHUNK = 5_000
COUNT_SECONDS = 600


class MongoSink:
    """Inserts first: nearly all events are new, and an insert by ``_id`` is four times as fast as an upsert.

    Only what is refused as a duplicate is compared with what is stored and, if newer, replaced.
    """

    name = "mongo"

    def __init__(self, settings: MongoSettings) -> None:
        self._events = events_collection(settings)

    def upsert(self, batch: StagedBatch) -> int:
        """Store every event of the batch."""
        rows: int = batch.events.num_rows
        for start in range(0, rows, CHUNK):
            with translated():
                self._store(documents(batch.events.slice(start, CHUNK)))
        return rows

    def count(self) -> int:
        """How many events there are."""
        with translated(), pymongo.timeout(COUNT_SECONDS):
            # From the primary, which knows every acknowledged write; it goes through the whole index.
            return self._events.count_documents({})

    def close(self) -> None:
        """Close the connections. The sink is of no use afterwards."""
        self._events.database.client.close()

    def _store(self, chunk: Sequence[Document]) -> None:
        refused = self._insert(chunk)
        newer = self._newer(refused) if refused else []
        if newer:
            self._events.bulk_write([_replacement(document) for document in newer], ordered=False)

    def _insert(self, chunk: Sequence[Document]) -> list[Document]:
        """Insert what is not there; the documents whose ``_id`` is taken."""
        try:
            self._events.insert_many(chunk, ordered=False)
        except BulkWriteError as exc:
            failures = exc.details["writeErrors"]
            if exc.details.get("writeConcernErrors") or any(f["code"] != DUPLICATE_KEY for f in failures):
                raise
            return [chunk[failure["index"]] for failure in failures]
        return []

    def _newer(self, refused: Sequence[Document]) -> list[Document]:
        ids = [document["_id"] for document in refused]
        found = self._events.find({"_id": {"$in": ids}}, {"version": 1, "digest": 1})
        stored = {document["_id"]: (document["version"], document["digest"]) for document in found}
        if len(stored) < len(refused):
            raise TransientError("MongoDB: refused as duplicates, but not there: deleted since, or by another index")
        return [d for d in refused if (d["version"], d["digest"]) > stored[d["_id"]]]


def _replacement(document: Document) -> ReplaceOne[Document]:
    """Replace only what is older still: another writer may have come between the reading and this."""
    version, digest = document["version"], document["digest"]
    older = [{"version": {"$lt": version}}, {"version": version, "digest": {"$lt": digest}}]
    # the user is the shard key: with it the write goes to one shard
    return ReplaceOne({"_id": document["_id"], "user_id": document["user_id"], "$or": older}, document)
