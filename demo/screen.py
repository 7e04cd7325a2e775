"""Output for people: one updating line on a terminal, an occasional line when the output goes to a file."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TextIO

from demo.watch import Snapshot

_LOG_INTERVAL_S = 10.0
_CLEAR_LINE = "\r\x1b[2K"


class Screen:
    """``print`` writes a permanent line; ``progress`` writes one that the next call replaces."""

    def __init__(self, out: TextIO = sys.stdout, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._is_terminal = out.isatty()
        self._line_open = False
        self._last_logged = ("", float("-inf"))

    def print(self, line: str) -> None:
        """Write a permanent line."""
        self._write(f"{_CLEAR_LINE if self._line_open else ''}{line}\n")
        self._line_open = False

    def print_stack_message(self, line: str) -> None:
        """Write a message from the local stack: as progress while it waits for servers, otherwise permanently."""
        (self.progress if " waiting for " in line else self.print)(line)

    def progress(self, line: str) -> None:
        """Show the current progress. Without a terminal, write it if it is new, at most every ten seconds."""
        if self._is_terminal:
            self._write(_CLEAR_LINE + line[: _terminal_width() - 1])
            self._line_open = True
            return
        last_line, logged_at = self._last_logged
        if line != last_line and self._clock() - logged_at >= _LOG_INTERVAL_S:
            self._last_logged = (line, self._clock())
            self._write(f"{line}\n")

    def end_progress(self) -> None:
        """Make the last progress line permanent."""
        if self._line_open:
            self._write("\n")
        self._line_open = False

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _terminal_width() -> int:
    return shutil.get_terminal_size((120, 24)).columns


def format_progress(snapshot: Snapshot, seconds: float) -> str:
    """Format the progress of the pipeline as one line."""
    total = sum(snapshot.end_offsets.values())
    done = sum(min(position, snapshot.end_offsets.get(shard, 0)) for shard, position in snapshot.positions.items())
    minutes, rest = divmod(int(seconds), 60)
    return (
        f"{minutes:2d}:{rest:02d}  ingested {done:,} of {total:,} in {snapshot.batches} batches, "
        f"{snapshot.pending_hours:,} hours and {snapshot.pending_users:,} users pending  {format_activity(snapshot)}"
    ).rstrip()


def format_activity(snapshot: Snapshot) -> str:
    """List the running tasks, all shards combined, or the DAGs with a pending run if no task is running."""
    running, retrying = _count_tasks(snapshot, "running"), _count_tasks(snapshot, "up_for_retry")
    pending = _count_names(_shorten(run.dag_id) for run in snapshot.runs if run.state in ("queued", "running"))
    parts = [f"running: {running}"] if running else [f"next: {pending}"] if pending else []
    parts += [f"up for retry: {retrying}"] if retrying else []
    return "; ".join(parts)


def _count_tasks(snapshot: Snapshot, state: str) -> str:
    return _count_names(f"{_shorten(task.dag_id)}.{task.task_id}" for task in snapshot.tasks if task.state == state)


def _count_names(names: Iterable[str]) -> str:
    counts = sorted(Counter(names).items())
    return ", ".join(name if count == 1 else f"{name} × {count}" for name, count in counts)


def _shorten(dag_id: str) -> str:
    return dag_id.partition("_")[0]
