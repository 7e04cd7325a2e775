"""Invariants 3 and 5: every message is accounted for, and no offset is ahead of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from include.settings import Settings
from tests.chaos.checker_readers import READERS, query_warehouse
from tests.chaos.checker_report import Report
from tests.chaos.checker_stores import find_missing
from tests.chaos.expected import POISON, Expected
from tests.chaos.expected_rules import RULE_REASONS
from tests.chaos.expected_topic import Range, read_offsets
from tests.chaos.observations import OffsetSample, Position

_BATCHES = """
SELECT shard, start_offset, end_offset, mode, delivered, valid, dropped, dead_letters
FROM pipeline.batches WHERE topic = %(topic)s AND committed_at IS NOT NULL ORDER BY shard, start_offset, end_offset
"""
_POSITIONS = "SELECT shard, committed_end FROM pipeline.positions WHERE topic = %(topic)s AND committed_end IS NOT NULL"
_RANGE = "FROM messages WHERE shard = ? AND offset >= ? AND offset < ?"
_COUNTS = f"SELECT count(*), count(event_id), count(DISTINCT event_id) {_RANGE}"
_REASONS = f"SELECT reason, count(*) {_RANGE} AND reason IS NOT NULL GROUP BY reason"
# Events whose winning revision is outside the range: stage may have found it stored, and dropped the one in the range.
_LOSERS = f"""
SELECT count(DISTINCT event_id) {_RANGE}
AND event_id NOT IN (SELECT event_id FROM messages JOIN events USING (event_id, version, digest)
                     WHERE shard = ? AND offset >= ? AND offset < ?)
"""
_PASSED = """
SELECT 1 FROM messages WHERE event_id = ? AND shard = ? AND offset < ?
AND NOT EXISTS (SELECT 1 FROM letters WHERE letters.shard = messages.shard AND letters.offset = messages.offset) LIMIT 1
"""
_LETTERS_PASSED = """
SELECT count(*) FROM messages WHERE reason IS NOT NULL AND shard = ? AND offset < ?
AND NOT EXISTS (SELECT 1 FROM letters WHERE letters.shard = messages.shard AND letters.offset = messages.offset)
"""


class _Batch(NamedTuple):
    """One committed batch of the ledger."""

    shard: int
    start: int
    end: int
    mode: str
    delivered: int
    valid: int
    dropped: int
    dead_letters: Mapping[str, int]


class Progress(NamedTuple):
    """How far each shard is: the topic's offsets, the ledger's position, the group's offset."""

    ranges: Mapping[int, Range]
    ledger: Mapping[int, int]
    group: Mapping[int, int]


def read_progress(settings: Settings) -> Progress:
    """Read it now."""
    ledger = dict(query_warehouse(settings, _POSITIONS, {"topic": settings.kafka.topic}))
    ranges, group = read_offsets(settings.kafka)
    return Progress(ranges, ledger, group)


def check_conservation(
    settings: Settings, expected: Expected, report: Report, progress: Progress, published: Mapping[int, int]
) -> None:
    """Compare every committed batch with a recount of its range, and check that they cover every message once."""
    report.checked(3)
    batches = [_Batch(*row) for row in query_warehouse(settings, _BATCHES, {"topic": settings.kafka.topic})]
    for batch in batches:
        if batch.mode != "lost" and batch.start >= progress.ranges[batch.shard].low:
            _check_batch(expected, report, batch)
    for shard, (low, high) in progress.ranges.items():
        live = [(batch.start, batch.end) for batch in batches if batch.shard == shard and batch.mode == "live"]
        check_cover(report, shard, live, Range(low, high))
        stored = expected.value("SELECT count(*) FROM messages WHERE shard = ?", shard)
        lost = published.get(shard, 0) - stored
        report.add(3, max(0, lost), f"shard {shard} has {stored:,} messages, but {lost:,} more were acknowledged")


def _check_batch(expected: Expected, report: Report, batch: _Batch) -> None:
    where = (batch.shard, batch.start, batch.end)
    name = f"the ledger says of {batch.mode} batch [{batch.start:,}, {batch.end:,}) of shard {batch.shard} that it has"
    delivered, valid, distinct = next(expected.select(_COUNTS, *where))
    for word, actual, recount in (("messages", batch.delivered, delivered), ("valid events", batch.valid, valid)):
        report.add(3, abs(actual - recount), f"{name} {actual:,} {word}; the topic has {recount:,}")
    _check_reasons(report, name, batch.dead_letters, dict(expected.select(_REASONS, *where)))
    least = valid - distinct
    most = least + expected.value(_LOSERS, *where, *where)
    if not least <= batch.dropped <= most:
        count = max(least - batch.dropped, batch.dropped - most)
        report.add(3, count, f"{name} {batch.dropped:,} duplicates; the topic has {least:,} to {most:,}")


def _check_reasons(report: Report, name: str, actual: Mapping[str, int], recount: Mapping[str, int]) -> None:
    refused = sum(count for reason, count in actual.items() if reason not in RULE_REASONS)
    by_rule = {reason: count for reason, count in actual.items() if reason in RULE_REASONS}
    counts = {**by_rule, POISON: refused}
    for reason in sorted({*counts, *recount}):
        has, should = counts.get(reason, 0), recount.get(reason, 0)
        report.add(3, abs(has - should), f"{name} {has:,} dead letters with {reason}; the topic has {should:,}")


def check_cover(report: Report, shard: int, batches: Sequence[tuple[int, int]], offsets: Range) -> None:
    """The live batches of a shard, in order, follow each other from its first message to its last."""
    first = min(offsets.low, batches[0][0]) if batches else offsets.low  # retention may have removed what was ingested
    ends = [first, *(end for _, end in batches)]
    starts = [*(start for start, _ in batches), offsets.high]
    for end, start in zip(ends, starts, strict=True):
        number, what = abs(start - end), "in no batch" if start > end else "in two batches"
        report.add(3, number, f"{number:,} offsets of shard {shard}, from {min(start, end):,} on, are {what}")


def check_offsets(expected: Expected, report: Report, progress: Progress, samples: Sequence[OffsetSample]) -> None:
    """No offset fell or was ahead in any sample, and none is ahead of what the stores have now."""
    report.checked(5)
    _check_samples(report, samples)
    for shard, (_, high) in progress.ranges.items():
        ledger, group = progress.ledger.get(shard, 0), progress.group.get(shard, 0)
        report.add(5, max(0, group - ledger), f"the group's offset of shard {shard} is {group - ledger:,} ahead")
        report.add(5, max(0, ledger - high), f"the ledger's position of shard {shard} is {ledger - high:,} ahead")
        unstored = expected.value(_LETTERS_PASSED, shard, max(ledger, group))
        report.add(5, unstored, f"the offsets of shard {shard} have passed {unstored:,} messages without a dead letter")
    _check_missing_events(expected, report, progress)


def _check_samples(report: Report, samples: Sequence[OffsetSample]) -> None:
    last: dict[int, Position] = {}
    for sample in samples:
        for shard, position in sample.shards.items():
            ahead = (position.group or 0) - (position.ledger or 0)
            report.add(5, ahead > 0, f"the group's offset of shard {shard} was {ahead:,} ahead of the ledger")
            before = last.get(shard, position)
            for name, old, new in zip(Position._fields, before, position, strict=True):
                fell = old is not None and (new is None or new < old)
                report.add(5, fell, f"the {name} offset of shard {shard} fell from {old} to {new}")
            last[shard] = position


def _check_missing_events(expected: Expected, report: Report, progress: Progress) -> None:
    passed = set()
    for store in READERS:
        for event_id in find_missing(expected, store):
            for shard in progress.ranges:
                position = max(progress.ledger.get(shard, 0), progress.group.get(shard, 0))
                if next(expected.select(_PASSED, event_id, shard, position), None):
                    passed.add(event_id)
    report.add(5, len(passed), f"the offsets have passed {len(passed):,} events that some store lacks", sorted(passed))


def check_drained(report: Report, progress: Progress) -> None:
    """The ledger's position and the group's offset are at the end of every shard."""
    for shard, (low, high) in progress.ranges.items():
        if high == low:
            continue
        ledger, group = progress.ledger.get(shard, 0), progress.group.get(shard, 0)
        report.add(8, max(0, high - ledger), f"the ledger's position of shard {shard} is {high - ledger:,} behind")
        report.add(8, max(0, ledger - group), f"the group's offset of shard {shard} is {ledger - group:,} behind")
