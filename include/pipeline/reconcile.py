"""reconcile: find every event on which the stores of events disagree, and repair it.

A difference counts if it is the same before and after every batch that was open when it was seen has been committed:
what is in flight is no difference.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from tempfile import TemporaryFile

import msgspec

from include.domain.batch import BatchRef
from include.domain.identity import shard_of
from include.domain.inventory import InventoryRow, hash_row
from include.errors import StagedBatchMissingError
from include.pipeline.compare import (
    ComparedStore,
    EventState,
    Judgement,
    Problem,
    judge,
    keys_of,
    read_states,
    scan_states,
)
from include.pipeline.files import events_file
from include.ports import BatchStore, Ledger

#: Events that are read again, and repaired, at a time.
CHUNK = 2_000
_HOUR_MS = 3_600_000
_MASK = 2**64 - 1
_POLL_S = 1.0

#: (shard, hour as ms since 1970 or None, store)
type Bucket = tuple[int, int | None, str]


@dataclass(frozen=True)
class ReconcilePorts:
    """What ``reconcile`` reads. ``sleep`` takes seconds; ``clock`` returns them.

    ``find_expired``: the ids of those of the events, (event_id, user_id), that retention is about to delete everywhere.
    """

    stores: Sequence[ComparedStore]
    ledger: Ledger
    files: BatchStore
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    find_expired: Callable[[Sequence[tuple[str, str]]], set[str]] = lambda keys: set()


@dataclass(frozen=True)
class Scope:
    """What is compared: the topic whose batches may be in flight, its number of shards, and one shard or all of them.

    ``wait_s`` bounds the wait for open batches.
    """

    topic: str
    shards: int
    shard: int | None = None
    by_hour: bool = False
    wait_s: float = 120.0


@dataclass
class Total:
    """Counts of one store, and the sum mod 2^64 of the hashes of its rows and of those it should have."""

    stored: int = 0
    digest: int = 0
    expected: int = 0
    expected_digest: int = 0
    problems: dict[Problem, int] = field(default_factory=lambda: dict.fromkeys(Problem, 0))

    @property
    def is_right(self) -> bool:
        return not any(self.problems.values())


@dataclass
class Report:
    """The outcome. ``totals`` has a row per shard and store; with ``by_hour`` also one per hour.

    ``in_flight`` counts events left out because their batch is not committed, ``expired`` those that retention has
    begun to delete; ``remaining`` those still wrong.
    """

    totals: defaultdict[Bucket, Total] = field(default_factory=lambda: defaultdict(Total))
    events: int = 0
    found: int = 0
    in_flight: int = 0
    expired: int = 0
    remaining: int = 0
    examples: dict[tuple[str, Problem], list[str]] = field(default_factory=dict)

    def problems(self) -> dict[tuple[str, Problem], int]:
        """The number of events by store and problem, without those that have none."""
        counts: Counter[tuple[str, Problem]] = Counter()
        for (_, hour, store), total in self.totals.items():
            if hour is None:
                counts.update({(store, problem): number for problem, number in total.problems.items() if number})
        return dict(sorted(counts.items()))


type Repair = Callable[[Sequence[EventState]], None]
type Progress = Callable[[int], None]


def reconcile(
    scope: Scope, ports: ReconcilePorts, *, repair: Repair | None = None, progress: Progress = lambda events: None
) -> Report:
    """Compare every event. Memory does not grow with their number, or with that of the differences."""
    report = Report()
    for differences in _find_differences(scope, ports, report, progress):
        report.found += len(differences)
        for state in differences:
            _add(state, judge(state, ports.stores), scope, ports.stores, report)
        if repair is not None:
            repair(differences)
            differences = read_states(keys_of(differences), ports.stores)
        report.remaining += sum(not judge(state, ports.stores).is_right for state in differences)
    return report


def _find_differences(
    scope: Scope, ports: ReconcilePorts, report: Report, progress: Progress
) -> Iterator[list[EventState]]:
    """The confirmed differences, in chunks; adds every other event to the report."""
    with _StateFile() as suspects:
        for states in scan_states(ports.stores):
            own = states if scope.shard is None else [each for each in states if _shard(each, scope) == scope.shard]
            for state in own:
                judgement = judge(state, ports.stores)
                if judgement.is_right:
                    _add(state, judgement, scope, ports.stores, report)
                else:
                    suspects.add(state)
            report.events += len(own)
            progress(report.events)
        yield from _confirm(suspects, scope, ports, report)


def _confirm(suspects: _StateFile, scope: Scope, ports: ReconcilePorts, report: Report) -> Iterator[list[EventState]]:
    deadline = ports.clock() + scope.wait_s
    while suspects.count:
        in_flight = _wait_for_open(scope.topic, ports, deadline)
        is_late = ports.clock() >= deadline
        with _StateFile() as changed:
            for chunk in suspects.read():
                now = {state.event_id: state for state in read_states(keys_of(chunk), ports.stores)}
                expired = ports.find_expired(keys_of(chunk))
                report.expired += len(expired)
                confirmed = []
                for state in chunk:
                    current = now.get(state.event_id)
                    if current is None or state.event_id in expired:  # deleted everywhere, or about to be
                        continue
                    judgement = judge(current, ports.stores)
                    if judgement.is_right:
                        _add(current, judgement, scope, ports.stores, report)
                    elif current.event_id in in_flight or (current != state and is_late):
                        report.in_flight += 1
                    elif current == state:
                        confirmed.append(current)
                    else:
                        changed.add(current)
                if confirmed:
                    yield confirmed
            suspects.replace_by(changed)


def _wait_for_open(topic: str, ports: ReconcilePorts, deadline: float) -> set[str]:
    """Wait until every batch that is open now is committed. Returns the events of those that are not in time."""
    waiting = {ref.batch_id for ref in ports.ledger.find_open(topic)}
    while waiting:
        still_open = [ref for ref in ports.ledger.find_open(topic) if ref.batch_id in waiting]
        if ports.clock() >= deadline:
            return set().union(*(_staged_events(ref, ports.files) for ref in still_open))
        waiting = {ref.batch_id for ref in still_open}
        if waiting:
            ports.sleep(_POLL_S)
    return set()


def _staged_events(ref: BatchRef, files: BatchStore) -> Iterable[str]:
    try:
        ids: list[str] = files.read(events_file(ref))["event_id"].to_pylist()
    except StagedBatchMissingError:  # never staged by this claim, so no store has anything of it
        return []
    return ids


def _shard(state: EventState, scope: Scope) -> int:
    return shard_of(state.user_id, scope.shards)


def _add(
    state: EventState, judgement: Judgement, scope: Scope, stores: Sequence[ComparedStore], report: Report
) -> None:
    standing, belongs, problems = judgement
    shard = _shard(state, scope)
    expected_hash = 0 if standing is None else hash_row(state.event_id, standing)
    for store, row, belonging, problem in zip(stores, state.rows, belongs, problems, strict=True):
        row_hash = expected_hash if row is not None and problem is None else _hash(state.event_id, row)
        time = row or standing
        hours = [None, time.occurred_at // _HOUR_MS * _HOUR_MS] if scope.by_hour and time is not None else [None]
        for hour in hours:
            total = report.totals[shard, hour, store.name]
            total.stored += row is not None
            total.digest = (total.digest + row_hash) & _MASK
            total.expected += belonging
            total.expected_digest = (total.expected_digest + belonging * expected_hash) & _MASK
            if problem is not None:
                total.problems[problem] += 1
        if problem is not None:
            _add_example(report, store.name, problem, state.event_id)


EXAMPLES = 5


def _add_example(report: Report, store: str, problem: Problem, event_id: str) -> None:
    examples = report.examples.setdefault((store, problem), [])
    if len(examples) < EXAMPLES:
        examples.append(event_id)


def _hash(event_id: str, row: InventoryRow | None) -> int:
    return 0 if row is None else hash_row(event_id, row)


class _StateFile:
    """Events on disk, read back in chunks: there may be as many as a store has."""

    def __init__(self) -> None:
        self.count = 0
        self._file = TemporaryFile()  # noqa: SIM115 - __exit__ closes it
        self._buffer: list[EventState] = []

    def __enter__(self) -> _StateFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, state: EventState) -> None:
        self.count += 1
        self._buffer.append(state)
        if len(self._buffer) >= CHUNK:
            self._flush()

    def read(self) -> Iterator[list[EventState]]:
        self._flush()
        self._file.seek(0)
        while size := self._file.read(8):
            yield _DECODER.decode(self._file.read(int.from_bytes(size, "big")))

    def replace_by(self, other: _StateFile) -> None:
        """Have the events of ``other``, which is left empty."""
        other._flush()
        self._file, other._file = other._file, self._file
        self.count = other.count

    def _flush(self) -> None:
        if self._buffer:
            encoded = _ENCODER.encode(self._buffer)
            self._file.write(len(encoded).to_bytes(8, "big") + encoded)
            self._buffer = []


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[EventState])
