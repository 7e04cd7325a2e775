"""Every valid event as one MongoDB document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pymongo
from pymongo import DeleteOne, ReplaceOne
from pymongo.errors import BulkWriteError

from include.domain.batch import StagedBatch
from include.domain.precedence import Precedence
from include.errors import TransientError
from include.settings import MongoSettings
from include.stores.mongo import DUPLICATE_KEY, Document, events_collection, to_documents, translate_errors

CHUNK = 5_000
COUNT_SECONDS = 600


class MongoSink:
    """Inserts first: nearly all events are new, and an insert by ``_id`` is four times as fast as an upsert.

    Only documents that are rejected as duplicates are compared with the stored ones and, if newer, replace them.
    """

    name = "mongo"

    def __init__(self, settings: MongoSettings) -> None:
        self._events = events_collection(settings)

    def upsert(self, batch: StagedBatch) -> int:
        """Store every event of the batch."""
        rows: int = batch.events.num_rows
        for start in range(0, rows, CHUNK):
            with translate_errors():
                self._store(to_documents(batch.events.slice(start, CHUNK)))
        return rows

    def delete(self, rows: pa.Table) -> int:
        """Delete these events unless a newer revision is stored."""
        deleted = 0
        for start in range(0, rows.num_rows, CHUNK):
            with translate_errors():
                requests = [_delete_unless_newer(row) for row in rows.slice(start, CHUNK).to_pylist()]
                deleted += self._events.bulk_write(requests, ordered=False).deleted_count
        return deleted

    def count(self) -> int:
        """Returns the number of events stored."""
        with translate_errors(), pymongo.timeout(COUNT_SECONDS):
            # Asks the primary, which knows every acknowledged write; this scans the whole index.
            return self._events.count_documents({})

    def close(self) -> None:
        """Close the connections. Do not use the sink after closing it."""
        self._events.database.client.close()

    def _store(self, chunk: Sequence[Document]) -> None:
        duplicates = self._insert(chunk)
        newer = self._select_newer(duplicates) if duplicates else []
        if newer:
            self._events.bulk_write([_replace_older(document) for document in newer], ordered=False)

    def _insert(self, chunk: Sequence[Document]) -> list[Document]:
        """Insert the documents. Returns those whose ``_id`` exists already."""
        try:
            self._events.insert_many(chunk, ordered=False)
        except BulkWriteError as exc:
            failures = exc.details["writeErrors"]
            if exc.details.get("writeConcernErrors") or any(f["code"] != DUPLICATE_KEY for f in failures):
                raise
            return [chunk[failure["index"]] for failure in failures]
        return []

    def _select_newer(self, duplicates: Sequence[Document]) -> list[Document]:
        ids = [document["_id"] for document in duplicates]
        cursor = self._events.find({"_id": {"$in": ids}}, {"version": 1, "digest": 1})
        stored = {document["_id"]: _precedence_of(document) for document in cursor}
        if len(stored) < len(duplicates):
            raise TransientError(
                "MongoDB rejected documents as duplicates that do not exist: deleted since, or by another unique index"
            )
        return [document for document in duplicates if _precedence_of(document) > stored[document["_id"]]]


def _precedence_of(document: Document) -> Precedence:
    return Precedence(document["version"], document["digest"])


def _replace_older(document: Document) -> ReplaceOne[Document]:
    """Replace the stored document only if it is still older: another writer may have replaced it after it was read.

    The condition is the rule of ``include/domain/precedence.py`` in MongoDB's query language.
    """
    version, digest = document["version"], document["digest"]
    older = [{"version": {"$lt": version}}, {"version": version, "digest": {"$lt": digest}}]
    # user_id is the shard key: with it in the filter the write goes to one shard.
    return ReplaceOne({"_id": document["_id"], "user_id": document["user_id"], "$or": older}, document)


def _delete_unless_newer(row: Mapping[str, Any]) -> DeleteOne:
    version, digest = row["version"], row["digest"]
    not_newer = [{"version": {"$lt": version}}, {"version": version, "digest": {"$lte": digest}}]
    return DeleteOne({"_id": row["event_id"], "user_id": row["user_id"], "$or": not_newer})
