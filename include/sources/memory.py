"""The topics of events and of dead letters in memory, for tests and dry runs."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from include.domain.batch import DeadLetter, Record
from include.domain.letters import Headers, StoredLetter, parse_redrive
from include.domain.offsets import Offsets, TopicDescription
from include.errors import OffsetsGoneError
from include.settings import PipelineSettings

CHUNK = 1_000


@dataclass
class _Partition:
    low: int = 0
    records: list[Record] = field(default_factory=list)

    @property
    def high(self) -> int:
        return self.low + len(self.records)


class MemorySource:
    """A topic in memory. ``append`` publishes a message, ``trim`` acts as retention."""

    def __init__(self) -> None:
        self.description = TopicDescription("memory", PipelineSettings.shards)
        self._partitions: defaultdict[int, _Partition] = defaultdict(_Partition)
        self._committed: dict[int, int] = {}

    def append(
        self, shard: int, key: bytes | None, value: bytes | None, published_at: int, headers: Headers = ()
    ) -> int:
        """Publish one message. Returns its offset."""
        partition = self._partitions[shard]
        record = Record(shard, partition.high, published_at, key, value, *parse_redrive(headers))
        partition.records.append(record)
        return record.offset

    def trim(self, shard: int, low: int) -> None:
        """Delete the messages before ``low``."""
        partition = self._partitions[shard]
        del partition.records[: low - partition.low]
        partition.low = low

    def describe(self) -> TopicDescription:
        """The topic's id and number of partitions."""
        return self.description

    def read_offsets(self, shard: int) -> Offsets:
        """``[low, high)`` of the shard."""
        return Offsets(self._partitions[shard].low, self._partitions[shard].high)

    def find_offset(self, shard: int, published_at: int) -> int:
        """The first offset published at or after that time (ms since 1970); the high watermark if there is none."""
        partition = self._partitions[shard]
        later = (record.offset for record in partition.records if record.published_at >= published_at)
        return next(later, partition.high)

    def read(self, shard: int, start: int, end: int) -> Iterator[Sequence[Record]]:
        """The records of ``[start, end)`` in order, in chunks. Raises ``OffsetsGoneError`` if any are missing."""
        low, high = self.read_offsets(shard)
        if start < end and not (low <= start and end <= high):
            raise OffsetsGoneError(f"shard {shard} has offsets [{low}, {high}), but [{start}, {end}) was requested")
        records = self._partitions[shard].records[start - low : end - low] if start < end else []
        return (records[at : at + CHUNK] for at in range(0, len(records), CHUNK))

    def read_committed_offset(self, shard: int) -> int | None:
        """The group's offset, None before the first commit."""
        return self._committed.get(shard)

    def commit(self, shard: int, offset: int) -> None:
        """Move the group's offset forward to ``offset``; a smaller offset changes nothing."""
        self._committed[shard] = max(offset, self._committed.get(shard, offset))

    def close(self) -> None:
        """Nothing to close."""


class MemoryPublisher:
    """Publishes to a topic in memory. ``clock`` returns seconds since 1970."""

    def __init__(self, source: MemorySource, clock: Callable[[], float] = time.time) -> None:
        self._source = source
        self._clock = clock

    def send(
        self,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        timestamp_ms: int | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Publish one message."""
        published_at = round(self._clock() * 1000) if timestamp_ms is None else timestamp_ms
        self._source.append(partition, key, value, published_at, headers)

    def flush(self) -> None:
        """Nothing is queued."""

    def close(self) -> None:
        """Nothing to close."""


class MemoryDeadLetters:
    """Stores letters as they come, duplicates included. ``clock`` returns seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.letters: list[DeadLetter] = []
        self._times: dict[str, int] = {}
        self._clock = clock

    def put(self, letters: Sequence[DeadLetter]) -> None:
        """Store every letter."""
        self.letters.extend(letters)
        for letter in letters:
            self._times.setdefault(letter.origin, round(self._clock() * 1000))

    def read(self) -> Iterator[DeadLetter]:
        """Every letter, each origin once."""
        return (stored.letter for stored in self.scan())

    def scan(self) -> Iterator[StoredLetter]:
        """As ``read``, with the time of each letter."""
        first: dict[str, StoredLetter] = {}
        for letter in self.letters:
            first.setdefault(letter.origin, StoredLetter(letter, self._times[letter.origin]))
        return iter(first.values())

    def close(self) -> None:
        """Nothing to close."""
