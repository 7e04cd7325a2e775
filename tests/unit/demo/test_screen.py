"""Output on a terminal and in a file."""

from __future__ import annotations

import io
from dataclasses import replace

from demo.airflow import DagRun, TaskRun
from demo.screen import Screen, format_activity, format_progress
from demo.watch import Snapshot


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


SNAPSHOT = Snapshot(
    end_offsets={0: 1_000, 1: 500}, positions={0: 1_000}, batches=3, pending_hours=12, pending_users=1_234,
    embedded_texts=5, successful_tasks=9, runs=(DagRun("aggregate_engagement", "r", "queued", None, None),),
    tasks=(), quiesced_at=None,
)  # fmt: skip


def test_a_terminal_has_one_updating_line() -> None:
    """Progress replaces earlier progress, and a permanent line clears it first."""
    out = Terminal()
    screen = Screen(out)
    screen.progress("one")
    screen.progress("two")
    screen.print("permanent")
    screen.progress("three")
    screen.end_progress()
    screen.end_progress()
    assert out.getvalue() == "\r\x1b[2Kone\r\x1b[2Ktwo\r\x1b[2Kpermanent\n\r\x1b[2Kthree\n"


def test_a_file_gets_occasional_plain_lines() -> None:
    """In a file, progress lines are at least ten seconds apart and never repeated."""
    out, now = io.StringIO(), [0.0]
    screen = Screen(out, lambda: now[0])
    for second, line in ((0, "a"), (1, "b"), (10, "c"), (30, "c"), (31, "d")):
        now[0] = second
        screen.progress(line)
    screen.print("end")
    screen.end_progress()
    assert out.getvalue() == "a\nc\nd\nend\n"


def test_progress_line() -> None:
    """The line shows ingest progress, pending work and what runs next."""
    line = format_progress(SNAPSHOT, 75)
    assert line == " 1:15  ingested 1,000 of 1,500 in 3 batches, 12 hours and 1,234 users pending  next: aggregate"


def test_running_tasks_are_listed_by_name() -> None:
    """Tasks with the same name are counted, and tasks up for retry are listed separately."""
    states = [("upsert_mongo", "running"), ("embed", "running"), ("embed", "running"), ("commit", "up_for_retry")]
    tasks = [TaskRun("ingest_shard_000", "r", name, -1, 1, state, None, None) for name, state in states]
    line = format_activity(replace(SNAPSHOT, tasks=tasks))
    assert line == "running: ingest.embed × 2, ingest.upsert_mongo; up for retry: ingest.commit"


def test_no_tasks_are_listed_between_runs() -> None:
    """Between two runs nothing is listed."""
    assert format_activity(replace(SNAPSHOT, runs=())) == ""
