"""replay: ingest a part of the topic again, slice by slice. Changes nothing that is right already, moves no offset."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import pyarrow as pa

from include.domain.batch import BatchMode, BatchRef
from include.domain.identity import digest
from include.errors import OffsetsGoneError, RefusedEventsError, StagedBatchMissingError
from include.pipeline.commit import CommitPorts, commit
from include.pipeline.embed import EmbedPorts, embed
from include.pipeline.files import replay_position_file
from include.pipeline.stage import StageLimits, StagePorts, stage
from include.pipeline.upsert import UpsertPorts, upsert
from include.ports import BatchStore, Source

log = logging.getLogger(__name__)

#: Called after each slice with the messages replayed so far, of how many.
type Progress = Callable[[int, int], None]


class Bound(msgspec.Struct, frozen=True):
    """Where a replay begins or ends: an offset, or a publish time in ms since 1970."""

    offset: int | None = None
    published_at: int | None = None


class ShardRange(msgspec.Struct, frozen=True):
    """Offsets ``[start, end)`` of one shard."""

    shard: int
    start: int
    end: int

    @property
    def size(self) -> int:
        """The number of offsets."""
        return self.end - self.start


@dataclass(frozen=True)
class ReplayPorts:
    """What one replayed slice reads and writes: the ports of every task of an ingest run."""

    stage: StagePorts
    embed: EmbedPorts
    sinks: Mapping[str, UpsertPorts]
    commit: CommitPorts


def plan(source: Source, shards: Sequence[int], start: Bound, end: Bound | None) -> list[ShardRange]:
    """The offsets to replay of each shard that has any; without ``end``, up to the newest message there is now.

    Raises ``OffsetsGoneError``, naming the oldest offset of each shard concerned, if messages that were asked for may
    have been removed by retention.
    """
    gone: list[str] = []
    ranges = []
    for shard in shards:
        low, high = source.read_offsets(shard)
        first = _find(source, shard, start)
        last = high if end is None else min(high, _find(source, shard, end))
        if low > 0 and _precedes_oldest(source, shard, start, low, high):
            gone.append(f"shard {shard} begins at offset {low}{_published(source, shard, low, high)}")
        elif first < last:
            ranges.append(ShardRange(shard, first, last))
    if gone:
        raise OffsetsGoneError(
            f"retention has removed messages that the replay begins with: {'; '.join(gone)}. Begin there, or fill the "
            "stores from each other: python -m include.cli rebuild --help"
        )
    return ranges


def _find(source: Source, shard: int, bound: Bound) -> int:
    return source.find_offset(shard, bound.published_at or 0) if bound.offset is None else bound.offset


def _precedes_oldest(source: Source, shard: int, start: Bound, low: int, high: int) -> bool:
    """Whether a replay from ``start`` begins before the oldest message, or may do so."""
    if start.offset is not None:
        return start.offset < low
    oldest = _read_time(source, shard, low, high)
    return oldest is None or (start.published_at or 0) < oldest


def _published(source: Source, shard: int, low: int, high: int) -> str:
    time = _read_time(source, shard, low, high)
    return ", and has no message" if time is None else f", published {datetime.fromtimestamp(time / 1000, UTC):%FT%TZ}"


def _read_time(source: Source, shard: int, low: int, high: int) -> int | None:
    if low >= high:
        return None
    return next((record.published_at for chunk in source.read(shard, low, low + 1) for record in chunk), None)


class ReplayPosition:
    """How far a replay of one shard has come, in a file between attempts."""

    def __init__(self, files: BatchStore, run: str, shard: int) -> None:
        self._files = files
        # Names a folder, and Airflow's run ids contain colons and plus signs.
        self._name = replay_position_file(digest(run.encode()), shard)

    def read(self) -> int | None:
        """The offset to go on at; None at the beginning."""
        try:
            return int(self._files.read(self._name)["offset"][0].as_py())
        except StagedBatchMissingError:
            return None

    def write(self, offset: int) -> None:
        """Record that everything before ``offset`` is done."""
        self._files.write(self._name, pa.table({"offset": pa.array([offset], pa.int64())}))

    def clear(self) -> None:
        """Begin at the beginning next time."""
        self._files.delete(self._name)


def replay(
    topic: str,
    wanted: ShardRange,
    slice_size: int,
    limits: StageLimits,
    ports: ReplayPorts,
    position: ReplayPosition,
    progress: Progress,
) -> int:
    """Replay the range in slices of at most ``slice_size`` messages. Returns their number.

    A slice ends early at ``limits.max_bytes``. After a failure, the next call goes on with the slice that failed.
    """
    at = position.read() or wanted.start
    with ThreadPoolExecutor(max_workers=len(ports.sinks) + 1, thread_name_prefix="replay") as executor:
        while at < wanted.end:
            ref = BatchRef(topic, wanted.shard, at, min(at + slice_size, wanted.end), BatchMode.RANGE)
            ref, counts = stage(ports.stage.ledger.claim_range(ref), ports.stage, limits)
            log.info("%s: %s", ref.batch_id, counts)
            try:
                _store(ref, ports, executor)
            except RefusedEventsError as error:
                log.warning("%s: %s", ref.batch_id, error)
                continue  # the slice is staged again, without the refused events
            commit(ref, ports.commit)
            at = ref.end
            position.write(at)
            progress(at - wanted.start, wanted.size)
    position.clear()
    return wanted.size


def _store(ref: BatchRef, ports: ReplayPorts, executor: ThreadPoolExecutor) -> None:
    """Every sink at the same time, after the vectors that it needs. Raises the first error once all have ended."""
    embedded = executor.submit(embed, ref, ports.embed)
    with _all_ended() as running:
        for sink in ports.sinks.values():
            if sink.generation is None:
                running.append(executor.submit(upsert, ref, sink))
        embedded.result()
        for sink in ports.sinks.values():
            if sink.generation is not None:
                running.append(executor.submit(upsert, ref, sink))


@contextmanager
def _all_ended() -> Iterator[list[Future[int]]]:
    running: list[Future[int]] = []
    try:
        yield running
    finally:
        errors = [error for future in running if (error := future.exception()) is not None]
    if errors:
        raise errors[0]
