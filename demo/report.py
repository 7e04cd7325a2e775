"""What the demo leaves: a report for programs, and tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from demo.manifest import Manifest
from demo.reader import Shown
from demo.reconcile import Counts, compare


class Seconds(msgspec.Struct, frozen=True):
    """``setup`` is all before the servers, ``start`` their start. ``ingest`` begins with the first publish, so it
    overlaps ``publish``; ``aggregate`` begins where it ends, ``precompute`` where that ends. ``total`` is the whole
    run, from the command to the report."""

    setup: float
    start: float
    publish: float
    ingest: float
    aggregate: float
    precompute: float
    total: float


class Report(msgspec.Struct, frozen=True):
    """``demo.json``. All counts are those found, not those expected."""

    delivered: int
    unique_valid: int
    duplicates: int
    dead_letters: Mapping[str, int]
    stores: Mapping[str, int]
    lists: int
    seconds: Seconds
    events_per_second: float


def make_report(found: Counts, manifest: Manifest, now: float) -> Report:
    """``now`` is in seconds since 1970. Events a second: delivered, from the first publish to the last list."""
    marks = manifest.marks
    first = marks.first_publish or now
    published, last = marks.published or now, marks.last_list or now
    ingested = min(marks.ingested or last, last)
    aggregated = min(max(marks.aggregated or last, ingested), last)
    seconds = Seconds(
        setup=round(manifest.setup_seconds, 1),
        start=round(manifest.start_seconds, 1),
        publish=round(max(published - first, 0.0), 1),
        ingest=round(max(ingested - first, 0.0), 1),
        aggregate=round(aggregated - ingested, 1),
        precompute=round(last - aggregated, 1),
        total=round(now - manifest.started_at, 1),
    )
    took = max(last - first, 0.001)
    return Report(
        delivered=found.delivered,
        unique_valid=found.unique_valid,
        duplicates=found.duplicates,
        dead_letters=dict(found.dead_letters),
        stores=dict(found.stores),
        lists=found.lists,
        seconds=seconds,
        events_per_second=round(found.delivered / took, 1),
    )


def write_report(path: Path, report: Report) -> None:
    """Replace the report as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    partial.replace(path)


def show_counts(console: Console, found: Counts, expected: Counts, wrong_aggregates: int) -> None:
    """Every count beside the one expected from the input."""
    table = Table(title="What became of the events", title_justify="left")
    table.add_column("")
    table.add_column("found", justify="right")
    table.add_column("expected", justify="right")
    table.add_column("")
    for row in compare(found, expected):
        table.add_row(row.name, f"{row.found:,}", f"{row.expected:,}", "" if row.right else "[bold red]differs")
    table.add_row(
        "wrong hourly rows", f"{wrong_aggregates:,}", "0", "" if not wrong_aggregates else "[bold red]differs"
    )
    console.print(table)


def show_seconds(console: Console, report: Report) -> None:
    """Where the time went."""
    table = Table(title="Seconds", title_justify="left")
    stages = msgspec.to_builtins(report.seconds)
    for stage in stages:
        table.add_column(stage, justify="right")
    table.add_column("events/s", justify="right")
    table.add_row(*(f"{value:.1f}" for value in stages.values()), f"{report.events_per_second:,.0f}")
    console.print(table)


def show_users(console: Console, users: Sequence[Shown]) -> None:
    """Each user with what the reader recommends, and why."""
    for shown in users:
        console.print(
            f"\n[bold]{_plain(shown.user_id)}[/bold], whose list was made from {shown.source.replace('_', ' ')}"
        )
        if shown.history:
            console.print(f"  engaged lately with: {_plain(', '.join(shown.history))}", soft_wrap=True)
        if not shown.items:
            console.print("  nothing to recommend: there is no item that this user has not met")
        for rank, item in enumerate(shown.items, start=1):
            text = item.text or item.item_id
            console.print(f"  {rank:2d}. {_plain(text)}  [dim]{_plain(item.reason)}[/dim]", soft_wrap=True)
    console.print()


def _plain(text: str) -> str:
    """Text from outside as it is: no markup, no control characters that a terminal would obey."""
    printable = "".join(character if character.isprintable() else "�" for character in text)
    return printable.replace("[", r"\[")
