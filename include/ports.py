"""The ports of the pipeline. An adapter implements one of these protocols on a server, or in memory.

Every adapter guarantees that a write may run twice with the effect of one; that an unavailable server raises
``TransientError``, and a wrong setting ``PermanentError``; and that texts, ids and vectors are returned unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
import pyarrow as pa

from include.domain.batch import BatchRef, DeadLetter, Record, StageCounts, StagedBatch
from include.domain.generation import Generation
from include.domain.mark import Mark
from include.domain.offsets import Offsets, TopicDescription
from include.domain.ranking import Engagements
from include.domain.ranking_model import RankingModel
from include.domain.refusal import Refusal
from include.domain.validation import Verdict


class Source(Protocol):
    """The topic of events, by shard. Never joins a consumer group."""

    def describe(self) -> TopicDescription: ...
    def read_offsets(self, shard: int) -> Offsets: ...
    def find_offset(self, shard: int, published_at: int) -> int:
        """The first offset published at or after that time (ms since 1970); the high watermark if there is none."""

    def read(self, shard: int, start: int, end: int) -> Iterator[Sequence[Record]]:
        """The records of ``[start, end)`` in order, in chunks. Raises ``OffsetsGoneError`` if any are missing."""

    def read_committed_offset(self, shard: int) -> int | None: ...
    def commit(self, shard: int, offset: int) -> None:
        """Move the group's offset forward to ``offset``; a smaller offset changes nothing."""


class DeadLetters(Protocol):
    def put(self, letters: Sequence[DeadLetter]) -> None:
        """Return only when every letter is acknowledged."""


class Validator(Protocol):
    def validate(self, events: pa.Table) -> Verdict:
        """Check the values of a batch; ``events`` has EVENT_SCHEMA."""


class Embedder(Protocol):
    @property
    def generation(self) -> Generation: ...
    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (len(texts), dimension), rows of length one, in the order of ``texts``."""


class TextVectors(Protocol):
    """Vectors of texts by (generation, text hash): each text is embedded only once, ever."""

    def get(self, generation: Generation, hashes: Sequence[str]) -> Mapping[str, np.ndarray]: ...
    def put(self, generation: Generation, hashes: Sequence[str], vectors: np.ndarray) -> None: ...
    def mark_used(self, generation: Generation, hashes: Sequence[str]) -> None:
        """A batch needs these vectors now: none of them may be deleted soon, although no stored event has its text."""

    def lock(self, generation: Generation, part: str) -> AbstractContextManager[None]:
        """Let one process at a time embed the texts of ``part``; others wait. Released when the process ends."""


class Sink(Protocol):
    """A store of events. Of two revisions of one event the one with the higher precedence wins."""

    @property
    def name(self) -> str: ...
    def upsert(self, batch: StagedBatch) -> int:
        """Store the events that belong in this store. Returns the number of those events."""

    def delete(self, rows: pa.Table) -> int:
        """Delete these events, (event_id, user_id, version, digest), unless a revision of higher precedence is stored.

        Returns the number of events deleted. The warehouse marks their hours and users as changed.
        """

    def count(self) -> int:
        """Returns the number of distinct events stored, including every acknowledged write."""

    def close(self) -> None: ...


class Inventory(Protocol):
    """What a store of events has: one row per event, with INVENTORY_SCHEMA, including every acknowledged write."""

    def scan(self, after: str = "") -> Iterator[pa.Table]:
        """Every event whose id is greater than ``after``, strictly in order of event id, in chunks of bounded size."""

    def read(self, keys: pa.Table) -> pa.Table:
        """The events with these keys, (event_id, user_id), in any order. Those that the store lacks are left out."""

    def close(self) -> None: ...


class Contents(Inventory, Protocol):
    """The inventory of a store that has the full contents of every event.

    The contents have EVENT_SCHEMA; ``offset`` is 0, ``published_at`` is 0 where the store does not know it, and
    ``replaces`` is true.
    """

    def scan_contents(self, after: str = "") -> Iterator[pa.Table]: ...
    def read_contents(self, keys: pa.Table) -> pa.Table: ...


class StoredVersions(Protocol):
    """The contents in the warehouse, which stores every event."""

    def compare(self, events: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """``outdated`` and ``revises`` of each event, as in ``domain.precedence.compare_versions``."""

    def read(self, events: pa.Table) -> pa.Table:
        """The stored contents of these events' identities, in EVENT_SCHEMA and in the same order.

        ``offset``, ``published_at`` and ``replaces`` are those of ``events``. Unknown identities are left out.
        """


class Ledger(Protocol):
    """Which batches were claimed, staged and committed: the source of truth about what has been ingested.

    Every claim has an epoch. ``shorten``, ``record_staged``, ``record_refused`` and ``commit`` raise
    ``StaleClaimError`` unless it is the last claim of its batch.
    """

    def confirm_topic(self, topic: str, topic_id: str) -> None:
        """Record the topic's id at first sight. Raises ``ConfigurationError`` if it had another one before."""

    def claim(self, topic: str, shard: int, offsets: Offsets, limit: int) -> BatchRef | None:
        """The open live batch of the shard, or a new one after the last; None when there is nothing to read."""

    def claim_range(self, ref: BatchRef) -> BatchRef: ...
    def shorten(self, ref: BatchRef, end: int) -> BatchRef:
        """End a batch that was never staged earlier than planned; the next live batch starts there."""

    def read_staged(self, ref: BatchRef) -> tuple[int, StageCounts] | None:
        """The epoch of the claim that was last staged, and its counts; None if the batch was never staged."""

    def count_recent(self, ref: BatchRef, messages: int) -> tuple[int, int]:
        """Messages, and those rejected, in the committed batches before ``ref``: as few as have so many messages."""

    def record_staged(self, ref: BatchRef, counts: StageCounts) -> None: ...
    def record_refused(self, ref: BatchRef, refusals: Sequence[Refusal]) -> None:
        """Remember what a store refused of a batch until the batch is committed."""

    def read_refused(self, ref: BatchRef) -> Sequence[Refusal]: ...
    def commit(self, ref: BatchRef) -> None: ...
    def is_current(self, ref: BatchRef) -> bool:
        """Whether ``ref`` is the last claim of its batch, and not committed."""

    def needs_settling(self, ref: BatchRef) -> bool:
        """Whether another run may have written events of this batch since it was claimed; False once it is committed.

        True for a range; and for a live batch beside a range, or if it or the one before was claimed more than once.
        """

    def find_open(self, topic: str) -> Sequence[BatchRef]:
        """The batches that are claimed and not committed."""

    def read_cut(self) -> int:
        """Messages published before it (ms since 1970) are not ingested any more; 0 before retention deletes events."""

    def read_position(self, topic: str, shard: int) -> int | None:
        """The end of the last committed live batch, None before the first."""

    def find_lost(self, topic: str, shard: int, low: int) -> BatchRef | None:
        """The offsets before ``low``, the first that the topic still has, that no batch has read to the end."""

    def skip_lost(self, topic: str, shard: int, low: int) -> BatchRef | None:
        """Record what ``find_lost`` finds as lost, so that the next batch starts at ``low``. Closes an open batch."""

    def forget_topic(self, topic: str) -> int:
        """Delete what the ledger knows of a topic, so that it is read from its first offset. Returns the batches."""


class Retention(Protocol):
    """What gets old in the warehouse. Ages are in days; what deletes does so in slices and returns their size."""

    def count_old_batches(self, days: int) -> int: ...
    def archive_old_batches(self, days: int) -> int:
        """Add committed batches to the archive of their day, and delete them; never the last one of a shard."""

    def count_abandoned_ranges(self, days: int) -> int: ...
    def drop_abandoned_ranges(self, days: int) -> int:
        """Delete the claims of ranges that were never committed."""

    def count_unused_vectors(self, days: int) -> int: ...
    def delete_unused_vectors(self, days: int) -> int:
        """Delete the vectors of texts that no event has, and no batch needed for so long."""

    def find_open_batches(self) -> set[str]:
        """The ids of the batches of all topics that are claimed and not committed."""


class Expiry(Protocol):
    """Events by the day (UTC) on which their newest message was published, and the cut: the first day that is kept."""

    def pause_claims(self) -> AbstractContextManager[None]:
        """Let every claim of a batch wait. Ends with the process."""

    def count_running(self) -> int:
        """The number of open batches whose run may still write."""

    def raise_cut(self, days: int) -> None:
        """Keep the events of the last ``days`` days; the cut never falls."""

    def date_undated(self) -> int:
        """Count a slice of the events whose day is unknown as published today. Returns its size."""

    def count(self, days: int) -> int: ...
    def read_slice(self) -> pa.Table:
        """Some events before the cut: (event_id, user_id, version, digest)."""

    def delete(self, rows: pa.Table) -> int:
        """Delete these events if they are before the cut. Their hours keep their engagement; their users changed."""

    def find(self, keys: Sequence[tuple[str, str]]) -> set[str]:
        """The ids of those of these events, (event_id, user_id), that are before the cut."""


class BatchStore(Protocol):
    """Arrow files between tasks, by name. Readers see a file whole or not at all."""

    def write(self, name: str, table: pa.Table) -> None: ...
    def read(self, name: str) -> pa.Table:
        """Raises ``StagedBatchMissingError`` if the file does not exist."""

    def delete(self, prefix: str) -> None: ...
    def find_folders(self, prefix: str) -> Sequence[str]:
        """The names of the folders directly below ``prefix``; none if it does not exist."""


class Engagement(Protocol):
    """Engagement by hour, item, campaign and kind, recounted from the stored events."""

    def read_touched_hours(self) -> Sequence[Mark]: ...
    def recount(self, hours: Sequence[str]) -> int:
        """Recount these hours (RFC 3339) as one set. Returns the number of rows they have now."""

    def recount_between(self, start_ms: int, end_ms: int) -> int: ...
    def clear_hours(self, marks: Sequence[Mark]) -> None: ...
    def rank_popular(self, as_of_ms: int, half_life_days: float, limit: int) -> Sequence[tuple[str, float]]:
        """Items by engagement decayed to ``as_of``, best first, ties by id."""


class EngagementLog(Protocol):
    """Every stored event with an item, for training."""

    def count(self) -> int: ...
    def scan(self) -> Iterator[pa.Table]:
        """(user_id, item_id, kind, occurred_at in ms since 1970), in any order, in chunks of bounded size."""

    def summarise_items(self, as_of_ms: int, half_lives: Sequence[float | None]) -> pa.Table:
        """(item_id, first_at, scores), by item id; ``first_at``: the time of the first engagement, in ms since 1970.

        ``scores``: for each half-life in days the sum over users of the greatest weight of their engagements with the
        item, decayed since the first one.
        """


class RankingModels(Protocol):
    """Trained rankings. The one that was promoted last is in service."""

    def add(self, model: RankingModel) -> None:
        """Store a model. One that is stored already only gets its time of training."""

    def promote(self, version: str, now_ms: int) -> None:
        """Put a stored model into service. Raises ``ConfigurationError`` for an unknown version."""

    def read_current(self) -> RankingModel | None:
        """The model in service; None before the first."""

    def find(self) -> Sequence[RankingModel]:
        """Every stored model, the last trained first."""

    def drop(self, version: str) -> None:
        """Forget a model; an unknown version changes nothing."""


class UserActivity(Protocol):
    """What the stored events say about users and items, for the precompute."""

    def read_clock_ms(self) -> int:
        """The warehouse's time (ms since 1970), which does not depend on which worker asks."""

    def find_newest_event_ms(self) -> int | None: ...
    def read_changed_users(self) -> Sequence[Mark]:
        """Users with a change in a committed batch that no recommendation list reflects yet."""

    def clear_changed_users(self, marks: Sequence[Mark]) -> None: ...
    def mark_changed_users(self, users: Sequence[str], batch_id: str) -> None:
        """Count these users as changed by a batch: ``read_changed_users`` returns them once it is committed."""

    def find_active_users(self, since_ms: int | None) -> Sequence[str]: ...
    def filter_known_users(self, users: Sequence[str]) -> Sequence[str]:
        """Those of ``users`` who have a stored event, in the same order."""

    def count_texts(self, users: Sequence[str]) -> pa.Table:
        """(user_id, text_hash, events): how many of each user's stored events have each text."""

    def read_item_texts(self, items: Sequence[str]) -> Mapping[str, str]:
        """The text of each item's newest event that has one. A user's message is never the text of an item."""

    def refresh_text_centre(self, generation: Generation) -> np.ndarray | None:
        """The mean text vector that profiles are centred on. When it is recomputed, every user counts as changed."""


class Profiles(Protocol):
    """Profile vectors by user, searched by cosine."""

    def put(self, users: Sequence[str], vectors: np.ndarray) -> None: ...
    def delete(self, users: Sequence[str]) -> None:
        """Delete the vectors of these users; a user without one changes nothing."""

    def get(self, users: Sequence[str]) -> Mapping[str, np.ndarray]: ...
    def search(self, vectors: np.ndarray, limit: int) -> Sequence[Sequence[tuple[str, float]]]:
        """For each vector the ``limit`` nearest users with their similarity, best first."""


class Graph(Protocol):
    def read_engagements(self, users: Sequence[str], limit: int) -> Engagements:
        """The latest ``limit`` items of each user, with the time of the last engagement."""


class SimilarItems(Protocol):
    """What the ranking in service has learned about pairs of items, for people: (Item)-[SIMILAR]->(Item)."""

    def replace(self, version: str, rows: Sequence[tuple[str, str, float]]) -> int:
        """Store (item, other item, weight) rows in place of all others; items without a node are left out.

        Returns the number of rows stored.
        """

    def find(self, item: str, limit: int) -> Sequence[tuple[str, float]]:
        """The other items of an item with their weights, the greatest first, ties by id."""

    def close(self) -> None: ...


class Lists(Protocol):
    """Packed recommendation lists; the newest wins."""

    def publish(self, generation: str, lists: Mapping[str, bytes], ttl_s: Mapping[str, int]) -> int: ...
    def publish_popular(self, generation: str, packed: bytes, ttl_s: int) -> None: ...
    def set_current_generation(self, generation: str) -> None: ...
    def find_expiring(self, generation: str, users: Sequence[str], within_s: int) -> Sequence[str]:
        """Those of ``users`` whose list is missing or expires within that time."""

    def read_recent_readers(self, since_s: int) -> Sequence[str]:
        """Users whose list was requested at or after that time (seconds since 1970)."""

    def forget_readers(self, users: Sequence[str]) -> None:
        """Remove these users from the recent readers."""
