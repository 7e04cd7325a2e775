"""Redriving dead letters: each message once, whatever dies, and never for ever."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from include.domain.batch import BatchMode, BatchRef, DeadLetter
from include.domain.letters import MAX_REDRIVES, NEVER, REDRIVEN_FROM, REDRIVES, StoredLetter, parse_redrive
from include.domain.offsets import TopicDescription
from include.domain.reasons import Reason
from include.domain.validation import Verdict
from include.pipeline.redrive import CHUNK, RedriveCounts, RedrivePorts, Selection, redrive
from include.pipeline.stage import StagePorts, stage
from include.sources.memory import MemoryDeadLetters, MemoryPublisher, MemorySource
from include.stores.files import ArrowFiles
from include.stores.memory_warehouse import MemoryWarehouse

EVERYTHING = Selection()


class AcceptingValidator:
    """Accepts everything."""

    def validate(self, events: pa.Table) -> Verdict:
        return Verdict({}, ())


class Desk:
    """A topic ``t`` of two shards in memory, and its dead letters. The clock advances by a second for each letter."""

    def __init__(self) -> None:
        self.now = 1_000
        self.source = MemorySource()
        self.source.description = TopicDescription("id", 2)
        self.letters = MemoryDeadLetters(lambda: self.now)
        self.publisher = MemoryPublisher(self.source, lambda: self.now)

    def reject(self, shard: int, value: bytes, reason: str = Reason.INVALID_JSON) -> None:
        """Publish a message and put its dead letter."""
        offset = self.source.append(shard, b"key", value, 5)
        self.put(shard, offset, reason)

    def put(self, shard: int, offset: int, reason: str = Reason.INVALID_JSON) -> None:
        """Put the dead letter of a message, as ``stage`` does."""
        [[record]] = self.source.read(shard, offset, offset + 1)
        self.now += 1
        self.letters.put([DeadLetter("t", record, reason)])

    def redrive(self, selection: Selection = EVERYTHING, **options: bool) -> RedriveCounts:
        ports = RedrivePorts(self.letters, self.source, self.publisher)
        return redrive("t", selection, ports, lambda what, done: None, **options)

    def values(self, shard: int) -> list[bytes | None]:
        high = self.source.read_offsets(shard).high
        return [record.value for records in self.source.read(shard, 0, high) for record in records]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_redriven_message_has_its_key_bytes_and_origin(desk: Desk) -> None:
    """The copy goes to the same shard, with the original key and bytes, the time of now, a count and its origin."""
    desk.reject(1, b"\xff")
    assert desk.redrive() == RedriveCounts(redriven=1)
    [[_, copy]] = desk.source.read(1, 0, 2)
    assert (copy.key, copy.value, copy.published_at) == (b"key", b"\xff", desk.now * 1000)
    assert (copy.redrives, copy.redriven_from) == (1, "t-1-0")


def test_a_second_run_repeats_nothing(desk: Desk) -> None:
    """What was redriven is known from the topic itself; ``again`` redrives it all the same."""
    for number in range(3):
        desk.reject(0, b"%d" % number)
    assert desk.redrive() == RedriveCounts(redriven=3)
    assert desk.redrive() == RedriveCounts(earlier=3)
    assert desk.redrive(again=True) == RedriveCounts(redriven=3)
    assert desk.values(0) == [b"0", b"1", b"2"] * 3


@pytest.mark.parametrize("sent", [0, 1, 4])
def test_a_run_that_died_is_continued(desk: Desk, sent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a run that died between two messages, the next one redrives the rest, and each message once."""
    for number in range(5):
        desk.reject(number % 2, b"%d" % number)
    publisher, left = desk.publisher, sent

    class Dying(MemoryPublisher):
        def send(self, *arguments: Any, **options: Any) -> None:
            nonlocal left
            if not left:
                raise KeyboardInterrupt
            left -= 1
            super().send(*arguments, **options)

    desk.publisher = Dying(desk.source, lambda: desk.now)
    with pytest.raises(KeyboardInterrupt):
        desk.redrive()
    desk.publisher = publisher
    assert desk.redrive() == RedriveCounts(redriven=5 - sent, earlier=sent)
    copies = sorted(value or b"" for shard in (0, 1) for value in desk.values(shard))
    assert copies == sorted([b"0", b"1", b"2", b"3", b"4"] * 2)


def test_a_dry_run_publishes_nothing(desk: Desk) -> None:
    """A dry run has the counts of the real one, and leaves the topic as it is."""
    desk.reject(0, b"a")
    assert desk.redrive(dry_run=True) == RedriveCounts(redriven=1)
    assert desk.values(0) == [b"a"]


def test_a_message_that_keeps_coming_back_is_refused(desk: Desk) -> None:
    """Each time, the new letter carries the count; after three times the desk refuses, also with ``again``."""
    desk.reject(0, b"a")
    for offset in range(1, MAX_REDRIVES + 1):
        assert desk.redrive().redriven == 1
        desk.put(0, offset)
    assert desk.redrive() == RedriveCounts(earlier=MAX_REDRIVES, exhausted=1)
    assert desk.redrive(Selection(offset=MAX_REDRIVES, shard=0), again=True) == RedriveCounts(exhausted=1)
    assert desk.values(0) == [b"a"] * (MAX_REDRIVES + 1)


def test_letters_that_arrive_meanwhile_are_left_alone(desk: Desk) -> None:
    """A message that fails again at once is not redriven again by the same run."""
    for number in range(CHUNK):
        desk.reject(0, b"%d" % number)
    ports = RedrivePorts(desk.letters, desk.source, desk.publisher)
    scans = 0

    class Arriving(MemoryDeadLetters):
        def scan(self) -> Iterator[StoredLetter]:
            nonlocal scans
            scans += 1
            if scans == 2:
                desk.reject(0, b"late")
            return desk.letters.scan()

    counts = redrive("t", EVERYTHING, RedrivePorts(Arriving(), ports.source, ports.publisher), lambda *_: None)
    assert counts == RedriveCounts(redriven=CHUNK)
    assert desk.values(0).count(b"late") == 1


def test_letters_of_another_topic_are_left_out(desk: Desk) -> None:
    """A letter of another topic, or of a partition that the topic does not have, cannot go back to where it was."""
    desk.reject(0, b"a")
    [letter] = desk.letters.letters
    desk.letters.put([DeadLetter("other", letter.record, letter.reason)])
    desk.reject(7, b"b")
    assert desk.redrive() == RedriveCounts(redriven=1, foreign=2)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), [b"a", b"b", b"c", b"d"]),
        (Selection(reason="invalid_json"), [b"a", b"c"]),
        (Selection(shard=1), [b"c", b"d"]),
        (Selection(shard=1, offset=1), [b"d"]),
        (Selection(since_ms=1_003_000), [b"c", b"d"]),
        (Selection(until_ms=1_003_000), [b"a", b"b"]),
        (Selection(since_ms=1_002_000, until_ms=1_003_000), [b"b"]),
    ],
)
def test_letters_are_selected(desk: Desk, selection: Selection, expected: list[bytes]) -> None:
    """By reason, shard, offset, and the time at which they were put; the end of the time is not part of it."""
    desk.reject(0, b"a")
    desk.reject(0, b"b", Reason.NOT_AN_OBJECT)
    desk.reject(1, b"c")
    desk.reject(1, b"d", "refused_by_milvus")
    assert [stored.letter.record.value for stored in selection.select(desk.letters)] == expected


def test_stage_carries_the_count_into_the_next_letter(desk: Desk) -> None:
    """A redriven message that is still not valid becomes a letter that says how often it was redriven."""
    desk.reject(0, b"{")
    desk.redrive()
    warehouse = MemoryWarehouse()
    files = ArrowFiles(f"memory://{uuid.uuid4().hex}")
    ports = StagePorts(
        desk.source, desk.letters, AcceptingValidator(), warehouse.stored_versions, warehouse.ledger, files
    )
    stage(warehouse.ledger.claim_range(BatchRef("t", 0, 1, 2, BatchMode.RANGE)), ports)
    [_, letter] = desk.letters.letters
    assert (letter.record.redrives, letter.record.redriven_from) == (1, "t-0-0")


@pytest.mark.parametrize(
    "headers",
    [
        None,
        [(REDRIVES, b"2")],
        [(REDRIVES, b"-1"), (REDRIVEN_FROM, b"t-0-0")],
        [(REDRIVES, b"many"), (REDRIVEN_FROM, b"t-0-0")],
        [(REDRIVES, None), (REDRIVEN_FROM, None)],
    ],
)
def test_headers_that_the_desk_did_not_write_are_ignored(headers: list[tuple[str, bytes | None]] | None) -> None:
    """Any producer may write these headers, and nonsense must not stop a batch."""
    assert parse_redrive(headers) == NEVER


def test_an_absurd_count_is_the_largest_that_matters() -> None:
    """A huge count cannot be turned into a huge number."""
    assert parse_redrive([(REDRIVES, b"9" * 10_000), (REDRIVEN_FROM, b"t-0-0")]) == (MAX_REDRIVES, "t-0-0")
