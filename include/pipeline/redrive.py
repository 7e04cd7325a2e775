"""redrive: publish the messages of dead letters again, each once. Also which letters an operator asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from include.domain.batch import DeadLetter
from include.domain.letters import MAX_REDRIVES, StoredLetter, redrive_headers
from include.ports import Source

#: Messages that are published before the desk waits for their acknowledgement. A run that dies repeats none of them.
CHUNK = 1_000


class LetterReader(Protocol):
    def scan(self) -> Iterator[StoredLetter]:
        """Every letter stored now, each origin once."""


class EventPublisher(Protocol):
    def send(
        self,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        timestamp_ms: int | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None: ...
    def flush(self) -> None:
        """Return when every message sent is acknowledged."""


@dataclass(frozen=True)
class RedrivePorts:
    """Where letters are, and the topic that their messages go to."""

    letters: LetterReader
    source: Source
    publisher: EventPublisher


@dataclass(frozen=True)
class Selection:
    """The letters that have all of these. Times are when a letter was put, ms since 1970: ``[since_ms, until_ms)``."""

    reason: str | None = None
    shard: int | None = None
    offset: int | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def select(self, letters: LetterReader) -> Iterator[StoredLetter]:
        """The letters of the topic that match."""
        return (stored for stored in letters.scan() if self._matches(stored))

    def _matches(self, stored: StoredLetter) -> bool:
        letter = stored.letter
        return (
            (self.reason is None or letter.reason == self.reason)
            and (self.shard is None or letter.record.shard == self.shard)
            and (self.offset is None or letter.record.offset == self.offset)
            and (self.since_ms is None or stored.put_at >= self.since_ms)
            and (self.until_ms is None or stored.put_at < self.until_ms)
        )


@dataclass
class RedriveCounts:
    """What became of the selected letters: each is counted once, in one of these."""

    redriven: int = 0
    #: Their message was published again before.
    earlier: int = 0
    #: Redriven MAX_REDRIVES times already.
    exhausted: int = 0
    #: From another topic, or from a partition that the topic does not have.
    foreign: int = 0


#: Called now and then with what is being done and how much of it is done.
type Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class _Redriven:
    """The offsets of ``[start, end)`` of one shard whose messages were redriven: their copies are in the topic."""

    start: int
    end: int
    offsets: set[int] = field(default_factory=set)


def redrive(
    topic: str,
    selection: Selection,
    ports: RedrivePorts,
    progress: Progress,
    *,
    again: bool = False,
    dry_run: bool = False,
) -> RedriveCounts:
    """Publish the message of each selected letter again, to its shard, unless it was redriven before.

    What was redriven is read from the topic itself, so that a run that died midway repeats nothing; ``again`` redrives
    those too. A letter that arrives meanwhile is left alone. With ``dry_run`` nothing is published.
    """
    earlier = _find_redriven(topic, selection, ports, progress, again=again)
    counts = RedriveCounts()
    for stored in selection.select(ports.letters):
        letter = stored.letter
        shard, offset = letter.record.shard, letter.record.offset
        known = earlier.get(shard)
        if letter.topic != topic or known is None:
            counts.foreign += 1
        elif letter.record.redrives >= MAX_REDRIVES:
            counts.exhausted += 1
        elif offset in known.offsets:
            counts.earlier += 1
        elif known.start <= offset < known.end:
            counts.redriven += 1
            if not dry_run:
                _publish(letter, ports.publisher)
                if counts.redriven % CHUNK == 0:
                    ports.publisher.flush()
                    progress("redriven", counts.redriven)
    ports.publisher.flush()
    return counts


def _publish(letter: DeadLetter, publisher: EventPublisher) -> None:
    record = letter.record
    # Without the old time, which the topic's retention might delete at once.
    publisher.send(record.shard, record.key, record.value, headers=redrive_headers(letter))


def _find_redriven(
    topic: str, selection: Selection, ports: RedrivePorts, progress: Progress, *, again: bool
) -> dict[int, _Redriven]:
    """What was redriven of each shard that has a selected letter. A copy always comes after its original."""
    oldest: dict[int, int] = {}
    for stored in selection.select(ports.letters):
        record = stored.letter.record
        if stored.letter.topic == topic:
            oldest[record.shard] = min(record.offset, oldest.get(record.shard, record.offset))
    partitions = ports.source.describe().partitions
    found = {}
    for shard, start in sorted(oldest.items()):
        if shard < partitions:
            low, high = ports.source.read_offsets(shard)
            found[shard] = _Redriven(start, high)
            if not again:
                _add_redriven(topic, shard, max(low, start), found[shard], ports.source, progress)
    return found


def _add_redriven(topic: str, shard: int, start: int, found: _Redriven, source: Source, progress: Progress) -> None:
    prefix = f"{topic}-{shard}-"
    for records in source.read(shard, start, found.end) if start < found.end else ():
        for record in records:
            origin = record.redriven_from
            if origin is not None and origin.startswith(prefix):
                number = origin.removeprefix(prefix)
                if number.isdigit():
                    found.offsets.add(int(number))
        progress(f"messages of shard {shard} searched for earlier redrives", records[-1].offset + 1 - start)
