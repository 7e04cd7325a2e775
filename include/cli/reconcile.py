"""``reconcile``: do all stores have the same events?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from include.cli.command import Commands, add_command
from include.errors import ConfigurationError
from include.pipeline.compare import Problem
from include.pipeline.positions import MessageCounts, ShardPosition
from include.pipeline.reconcile import Bucket, Report, Scope, Total
from include.reconciliation import count_messages, find_positions, reconcile_stores
from include.settings import Settings

_PROGRESS_EVENTS = 50_000
_HEADINGS = ("shard", "store", "stored", "expected", "missing", "extra", "different", "digest")


def add_commands(commands: Commands) -> None:
    """Register the command."""
    parser = add_command(commands, "reconcile", _reconcile, "compare the events of all stores, and repair them")
    parser.add_argument("--repair", action="store_true", help="write what a store lacks, delete what no store explains")
    parser.add_argument("--shard", type=int, help="only the events of this shard's users")
    parser.add_argument("--by", choices=("shard", "hour"), default="shard", help="also show the hours that differ")
    parser.add_argument("--show", action="store_true", help="show the ids of the first events of each kind")
    parser.add_argument("--wait", type=float, default=120, help="seconds to wait for batches in progress (default 120)")


def _reconcile(settings: Settings, options: argparse.Namespace) -> int:
    shards = settings.pipeline.shards
    if options.shard is not None and not 0 <= options.shard < shards:
        raise ConfigurationError(f"--shard {options.shard}: use 0 to {shards - 1}, as MILLRACE_SHARDS is {shards}")
    scope = Scope(settings.kafka.topic, shards, options.shard, by_hour=options.by == "hour", wait_s=options.wait)
    own = [position for position in find_positions(settings) if scope.shard in (None, position.shard)]
    counts = count_messages(settings)
    report = reconcile_stores(settings, scope, repair=options.repair, progress=_Progress())
    _print_report(report, own, options)
    _print_counts(counts, report, scope)
    wrong = report.remaining or any(position.problem for position in own) or (counts is not None and counts.problem)
    return 1 if wrong else 0


def _print_counts(counts: MessageCounts | None, report: Report, scope: Scope) -> None:
    if counts is None:
        return
    if counts.problem:
        print(counts.problem)
    if scope.shard is None and report.events > counts.valid:
        print(f"the ledger counts only {counts.valid:,} valid events: it began after some of them were stored")


class _Progress:
    """Prints the number of compared events every now and then."""

    def __init__(self) -> None:
        self._shown = 0

    def __call__(self, events: int) -> None:
        if events - self._shown >= _PROGRESS_EVENTS:
            self._shown = events
            print(f"{events:,} events compared", file=sys.stderr, flush=True)


def _print_report(report: Report, positions: Sequence[ShardPosition], options: argparse.Namespace) -> None:
    _print_table(_HEADINGS, (_row(bucket, total) for bucket, total in sorted_totals(report, hours=False)))
    if options.by == "hour":
        hours = [(bucket, total) for bucket, total in sorted_totals(report, hours=True) if not total.is_right]
        print(f"\n{len(hours):,} hours differ")
        if hours:
            _print_table(("hour", *_HEADINGS), ((_hour(bucket), *_row(bucket, total)) for bucket, total in hours))
    print()
    rows = (
        (p.shard, _or_none(p.group), _or_none(p.ledger), p.offsets.low, p.offsets.high, p.problem or "")
        for p in positions
    )
    _print_table(("shard", "group", "ledger", "low", "high", ""), rows)
    if options.show:
        for (store, problem), ids in sorted(report.examples.items()):
            print(f"{problem} in {store}: {', '.join(ids)}")
    print(f"\n{_summary(report, options.repair)}")


def sorted_totals(report: Report, *, hours: bool) -> list[tuple[Bucket, Total]]:
    """The totals of whole shards, or those of hours, by shard, hour and store."""
    chosen = [(bucket, total) for bucket, total in report.totals.items() if (bucket[1] is not None) == hours]
    return sorted(chosen, key=lambda pair: (pair[0][0], pair[0][1] or 0, pair[0][2]))


def _row(bucket: Bucket, total: Total) -> tuple[object, ...]:
    same = "equal" if total.digest == total.expected_digest else "not equal"
    counts = (total.problems[problem] for problem in Problem)
    return (bucket[0], bucket[2], total.stored, total.expected, *counts, f"{total.digest:016x} {same}")


def _hour(bucket: Bucket) -> str:
    return datetime.fromtimestamp((bucket[1] or 0) / 1000, UTC).strftime("%Y-%m-%dT%HZ")


def _or_none(number: int | None) -> object:
    return "-" if number is None else number


def _summary(report: Report, repaired: bool) -> str:
    parts = [f"{report.events:,} events compared", f"{report.found:,} differ"]
    if repaired:
        parts.append(f"{report.found - report.remaining:,} repaired")
    if report.in_flight:
        parts.append(f"{report.in_flight:,} left out, because their batch is not committed")
    if report.expired:
        parts.append(f"{report.expired:,} left out, because retention deletes them")
    return ", ".join(parts)


def _print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    cells = [headings, *([f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    for row in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
