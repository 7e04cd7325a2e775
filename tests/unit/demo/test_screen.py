"""What is written on the screen."""

from __future__ import annotations

import io
from dataclasses import replace

from demo.airflow import DagRun, TaskRun
from demo.screen import Screen, running, waiting_line
from demo.watch import Snapshot


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


SNAPSHOT = Snapshot(
    ends={0: 1_000, 1: 500}, positions={0: 1_000}, batches=3, hours=12, users=1_234, texts=5, succeeded=9,
    runs=(DagRun("aggregate_engagement", "r", "queued", None, None),), tasks=(), settled=None,
)  # fmt: skip


def test_a_terminal_has_one_changing_line() -> None:
    """Progress replaces progress; a line that stays clears it first."""
    out = Terminal()
    screen = Screen(out)
    screen.progress("one")
    screen.progress("two")
    screen.say("kept")
    screen.progress("three")
    screen.done()
    screen.done()
    assert out.getvalue() == "\r\x1b[2Kone\r\x1b[2Ktwo\r\x1b[2Kkept\n\r\x1b[2Kthree\n"


def test_a_kept_output_has_plain_lines_now_and_then() -> None:
    """Where the output goes to a file, ten seconds lie between two lines, and none is written twice."""
    out, now = io.StringIO(), [0.0]
    screen = Screen(out, lambda: now[0])
    for second, line in ((0, "a"), (1, "b"), (10, "c"), (30, "c"), (31, "d")):
        now[0] = second
        screen.progress(line)
    screen.say("end")
    screen.done()
    assert out.getvalue() == "a\nc\nd\nend\n"


def test_waiting_line() -> None:
    """How far the ledger is, what is still to do, and whose turn it is."""
    line = waiting_line(SNAPSHOT, 75)
    assert line == " 1:15  ingested 1,000 of 1,500 in 3 batches, 12 hours and 1,234 users to do  next: aggregate"


def test_running_tasks_by_name() -> None:
    """Tasks of one name are counted, in order; those to be tried again are told apart."""
    states = [("upsert_mongo", "running"), ("embed", "running"), ("embed", "running"), ("commit", "up_for_retry")]
    tasks = [TaskRun("ingest_shard_000", "r", name, -1, 1, state, None, None) for name, state in states]
    line = running(replace(SNAPSHOT, tasks=tasks))
    assert line == "running: ingest.embed × 2, ingest.upsert_mongo; to be tried again: ingest.commit"


def test_nothing_runs() -> None:
    """Between two runs there is nothing to name."""
    assert running(replace(SNAPSHOT, runs=())) == ""
