"""Invariant 6: one digest of everything that a store has, independent of the order in which it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from include.settings import Settings
from tests.chaos.checker_lists import read_lists, unpack
from tests.chaos.checker_readers import READERS, StoreReader, query_warehouse, read_item_campaigns
from tests.chaos.checker_report import Report
from tests.chaos.expected_rules import hash_bytes

#: What a replay must not change, besides the events. Only ``revised`` may: it says that another content was met.
_TABLES = {
    "first batches": "SELECT event_id, first_batch FROM events",
    "engagement_hourly": (
        "SELECT hour::text, item_id, campaign_id, kind, events, users, value::float8 FROM engagement_hourly"
    ),
    "text vectors": "SELECT generation, text_hash, encode(vector, 'hex') FROM pipeline.text_vectors",
    "ledger positions": "SELECT topic, shard, committed_end FROM pipeline.positions",
}


class _Sum(NamedTuple):
    """The number of rows and the sum of their digests."""

    rows: int
    digest: int


class Snapshot(NamedTuple):
    """The sums by store, and the version of each list by the digest of its user."""

    sums: dict[str, _Sum]
    versions: dict[str, int]


def take_snapshot(settings: Settings, prefix: str) -> Snapshot:
    """Read everything once."""
    sums = {reader.title: _sum(_rows(reader, settings, prefix)) for reader in READERS.values()}
    sums["campaigns"] = _sum(read_item_campaigns(settings, prefix))
    sums.update({name: _sum(query_warehouse(settings, query)) for name, query in _TABLES.items()})
    versions = {
        hash_bytes(user.encode()): unpack(packed).version
        for chunk in read_lists(settings)
        for user, packed in chunk.items()
    }
    return Snapshot(sums, versions)


def compare_snapshots(before: Snapshot, after: Snapshot, report: Report) -> None:
    """Every sum is the same, and no list is older."""
    report.checked(6)
    for name, earlier in before.sums.items():
        later = after.sums[name]
        rows = f"had {earlier.rows:,} rows, now {later.rows:,}"
        report.add(6, later != earlier, f"the replay changed {name}, which {rows}")
    older = [user for user, version in after.versions.items() if version < before.versions.get(user, version)]
    report.add(6, len(older), f"{len(older):,} lists are older than before the replay", sorted(older))


def _rows(reader: StoreReader, settings: Settings, prefix: str) -> Iterator[object]:
    for event in reader.read(settings, prefix):
        yield event.event_id, dict(event.fields), None if event.vector is None else event.vector.tobytes()


def _sum(rows: Iterable[object]) -> _Sum:
    count = total = 0
    for row in rows:
        encoded = msgspec.msgpack.encode(row, order="deterministic")
        total += int.from_bytes(hashlib.sha256(encoded).digest()[:16])
        count += 1
    return _Sum(count, total % 2**128)
