"""Every seam of the pipeline. An adapter keeps one of these promises on one server, or in memory.

All of them: a write may run twice and has the effect of one; a server that is away raises ``TransientError``,
a wrong setting ``PermanentError``; texts, ids and vectors go in and come out unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from include.domain.batch import BatchRef, DeadLetter, Record, StageCounts, StagedBatch
from include.domain.generation import Generation
from include.domain.ranking import Engagements
from include.domain.reasons import Reason


class Offsets(NamedTuple):
    """``[low, high)``: what a partition holds."""

    low: int
    high: int


class Verdict(NamedTuple):
    """The rows that fail a value rule with the first rule each fails, and what is odd about the batch as a whole."""

    rejected: Mapping[int, Reason]
    warnings: Sequence[str]


class Mark(NamedTuple):
    """One thing to be done again (an hour, a user), as it was when it was read: clearing spares a newer mark."""

    key: str
    seq: int


class Source(Protocol):
    """The topic of events, by shard. Never joins a consumer group."""

    def offsets(self, shard: int) -> Offsets: ...
    def offset_at(self, shard: int, published_at: int) -> int:
        """The first offset published at or after that time (ms since 1970); the high watermark if there is none."""

    def read(self, shard: int, start: int, end: int) -> Iterator[Sequence[Record]]:
        """The records of ``[start, end)`` in order, in chunks. Raises ``OffsetsGoneError`` if some are not there."""

    def committed(self, shard: int) -> int | None: ...
    def commit(self, shard: int, offset: int) -> None:
        """Move the group's offset forward to ``offset``; an offset behind it changes nothing."""


class DeadLetters(Protocol):
    def put(self, letters: Sequence[DeadLetter]) -> None:
        """Return only when every letter is acknowledged."""


class Validator(Protocol):
    def validate(self, events: pa.Table) -> Verdict: ...


class Embedder(Protocol):
    @property
    def generation(self) -> Generation: ...
    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (len(texts), dimension), rows of length one, in the order of ``texts``."""


class TextVectors(Protocol):
    """Vectors of texts by (generation, text hash): a text is embedded once, ever."""

    def get(self, generation: Generation, hashes: Sequence[str]) -> Mapping[str, np.ndarray]: ...
    def put(self, generation: Generation, hashes: Sequence[str], vectors: np.ndarray) -> None: ...
    def lock(self, generation: Generation, part: str) -> AbstractContextManager[None]:
        """Let one process at a time embed the texts of ``part``; waits, and ends with the process that holds it."""


class Sink(Protocol):
    """A store of events. Of two contents of one identity the higher (version, digest) stays, in whatever order."""

    @property
    def name(self) -> str: ...
    def upsert(self, batch: StagedBatch) -> int:
        """Store the batch's events that this store is for; how many those are."""

    def count(self) -> int:
        """How many distinct events it holds now, by a read that sees every acknowledged write."""


class Standing(Protocol):
    def standing(self, events: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Two bool arrays, a value an event: a newer content of its identity is stored; an older one is or was."""


class Ledger(Protocol):
    """Which batches were claimed, staged and committed. The truth of what is ingested."""

    def claim(self, topic: str, shard: int, offsets: Offsets, limit: int) -> BatchRef | None:
        """The open live batch of the shard, or a new one after the last; None when there is nothing to read."""

    def claim_range(self, ref: BatchRef) -> None: ...
    def staged(self, ref: BatchRef, counts: StageCounts) -> None: ...
    def commit(self, ref: BatchRef) -> None: ...
    def position(self, topic: str, shard: int) -> int | None:
        """The end of the last committed live batch, None before the first."""


class BatchStore(Protocol):
    """Arrow files between tasks, by name. A write is seen whole or not at all."""

    def write(self, name: str, table: pa.Table) -> None: ...
    def read(self, name: str) -> pa.Table:
        """Raises ``StagedBatchMissingError`` if it is gone."""

    def delete(self, prefix: str) -> None: ...


class Engagement(Protocol):
    """Engagement by hour, item, campaign and kind, recounted from the stored events."""

    def touched_hours(self) -> Sequence[Mark]: ...
    def recount(self, hours: Sequence[str]) -> int:
        """Redo these hours (RFC 3339) as a set; how many rows they have now."""

    def recount_between(self, start_ms: int, end_ms: int) -> int: ...
    def clear_hours(self, marks: Sequence[Mark]) -> None: ...
    def popular(self, as_of_ms: int, half_life_days: float, limit: int) -> Sequence[tuple[str, float]]:
        """Items by engagement decayed to ``as_of``, best first, ties by id."""


class Audience(Protocol):
    """What the stored events say of users and items, for the precompute."""

    def newest_event(self) -> int | None: ...
    def changed_users(self) -> Sequence[Mark]:
        """Users with a change in a committed batch that no list has taken in yet."""

    def clear_users(self, marks: Sequence[Mark]) -> None: ...
    def active_users(self, since_ms: int | None) -> Sequence[str]: ...
    def text_counts(self, users: Sequence[str]) -> pa.Table:
        """(user_id, text_hash, events): how often each user's stored events have each text."""

    def item_texts(self, items: Sequence[str]) -> Mapping[str, str]:
        """The text of each item's newest event that has one."""

    def text_centre(self, generation: Generation) -> np.ndarray | None:
        """The mean text vector that profiles are centred on; when it is taken anew, every user becomes changed."""


class Profiles(Protocol):
    """Profile vectors by user, searched by cosine."""

    def put(self, users: Sequence[str], vectors: np.ndarray) -> None: ...
    def get(self, users: Sequence[str]) -> Mapping[str, np.ndarray]: ...
    def similar(self, vectors: np.ndarray, limit: int) -> Sequence[Sequence[tuple[str, float]]]: ...


class Graph(Protocol):
    def engagements(self, users: Sequence[str], limit: int) -> Engagements:
        """The latest ``limit`` items of each user with the time of the last engagement."""


class Lists(Protocol):
    """Packed recommendation lists, newest wins."""

    def publish(self, generation: str, lists: Mapping[str, bytes], ttl_s: Mapping[str, int]) -> int: ...
    def publish_popular(self, generation: str, packed: bytes, ttl_s: int) -> None: ...
    def make_current(self, generation: str) -> None: ...
    def expiring(self, generation: str, users: Sequence[str], within_s: int) -> Sequence[str]:
        """Those of ``users`` whose list is absent or ends within that time."""

    def asked_since(self, since_s: int) -> Sequence[str]: ...
