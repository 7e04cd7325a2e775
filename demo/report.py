"""The demo's results: a JSON report for programs, tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from demo.manifest import Manifest
from demo.reader import UserRecommendations
from demo.reconcile import Counts, compare
from stack.credentials import write_private

_MISMATCH = "[bold red]mismatch"


class Seconds(msgspec.Struct, frozen=True):
    """``setup`` is everything before the servers start, ``start`` their start. ``ingest`` begins with the first
    publish and so overlaps ``publish``; ``aggregate`` begins when ingest ends, ``precompute`` when aggregation ends.
    ``total`` is the whole run, from the command to the report."""

    setup: float
    start: float
    publish: float
    ingest: float
    aggregate: float
    precompute: float
    total: float


class Report(msgspec.Struct, frozen=True):
    """The content of ``demo.json``. All counts are actual counts, not expected ones."""

    delivered: int
    unique_valid: int
    duplicates: int
    dead_letters: Mapping[str, int]
    stores: Mapping[str, int]
    lists: int
    seconds: Seconds
    events_per_second: float


def build_report(actual: Counts, manifest: Manifest, now: float) -> Report:
    """``now`` is in seconds since 1970. Events per second run from the first publish to the last list."""
    times = manifest.stage_times
    first_publish, last_list = times.first_publish or now, times.last_list or now
    duration = max(last_list - first_publish, 0.001)
    return Report(
        delivered=actual.delivered,
        unique_valid=actual.unique_valid,
        duplicates=actual.duplicates,
        dead_letters=dict(actual.dead_letters),
        stores=dict(actual.stores),
        lists=actual.lists,
        seconds=_measure_stages(manifest, now),
        events_per_second=round(actual.delivered / duration, 1),
    )


def _measure_stages(manifest: Manifest, now: float) -> Seconds:
    times = manifest.stage_times
    first_publish, last_list = times.first_publish or now, times.last_list or now
    published = times.published or now
    ingested = min(times.ingested or last_list, last_list)
    aggregated = min(max(times.aggregated or last_list, ingested), last_list)
    return Seconds(
        setup=round(manifest.setup_seconds, 1),
        start=round(manifest.start_seconds, 1),
        publish=round(max(published - first_publish, 0.0), 1),
        ingest=round(max(ingested - first_publish, 0.0), 1),
        aggregate=round(aggregated - ingested, 1),
        precompute=round(last_list - aggregated, 1),
        total=round(now - manifest.started_at, 1),
    )


def write_report(path: Path, report: Report) -> None:
    """Write the report atomically, readable only by its owner."""
    write_private(path, msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")


def print_counts(console: Console, actual: Counts, expected: Counts, wrong_aggregates: int) -> None:
    """Print every count next to the one expected from the input."""
    table = Table(title="What happened to the events", title_justify="left")
    table.add_column("")
    table.add_column("actual", justify="right")
    table.add_column("expected", justify="right")
    table.add_column("")
    for row in compare(actual, expected):
        table.add_row(row.name, f"{row.actual:,}", f"{row.expected:,}", "" if row.matches else _MISMATCH)
    table.add_row("wrong hourly rows", f"{wrong_aggregates:,}", "0", _MISMATCH if wrong_aggregates else "")
    console.print(table)


def print_seconds(console: Console, report: Report) -> None:
    """Print how long each stage took."""
    table = Table(title="Seconds per stage", title_justify="left")
    stages = msgspec.to_builtins(report.seconds)
    for stage in stages:
        table.add_column(stage, justify="right")
    table.add_column("events/s", justify="right")
    table.add_row(*(f"{value:.1f}" for value in stages.values()), f"{report.events_per_second:,.0f}")
    console.print(table)


def print_users(console: Console, users: Sequence[UserRecommendations]) -> None:
    """Print what the reader recommends to each user, and why."""
    for user in users:
        console.print(f"\n[bold]{_escape(user.user_id)}[/bold], list based on {user.source.replace('_', ' ')}")
        if user.history:
            console.print(f"  recently engaged with: {_escape(', '.join(user.history))}", soft_wrap=True)
        if not user.items:
            console.print("  nothing to recommend: this user has already engaged with every item")
        for rank, item in enumerate(user.items, start=1):
            text = item.text or item.item_id
            console.print(f"  {rank:2d}. {_escape(text)}  [dim]{_escape(item.reason)}[/dim]", soft_wrap=True)
    console.print()


def _escape(text: str) -> str:
    """Make external text safe to print: no markup, and no control characters for the terminal to act on."""
    printable = "".join(character if character.isprintable() else "�" for character in text)
    return printable.replace("[", r"\[")
