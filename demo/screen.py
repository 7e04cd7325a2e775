"""What a person sees: one line that changes on a terminal, a line now and then where the output is kept."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TextIO

from demo.watch import Snapshot

_KEPT_EVERY = 10.0
_CLEAR = "\r\x1b[2K"


class Screen:
    """``say`` writes a line that stays; ``progress`` one that the next progress replaces."""

    def __init__(self, out: TextIO = sys.stdout, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._terminal = out.isatty()
        self._open = False
        self._kept = ("", float("-inf"))

    def say(self, line: str) -> None:
        """A line that stays."""
        self._write(f"{_CLEAR if self._open else ''}{line}\n")
        self._open = False

    def said(self, line: str) -> None:
        """A line of the local stack: what it still waits for is progress, everything else stays."""
        (self.progress if " waiting for " in line else self.say)(line)

    def progress(self, line: str) -> None:
        """Where things stand. Not on a terminal: written when it is new, and not more often than every ten seconds."""
        if self._terminal:
            self._write(_CLEAR + line[: _width() - 1])
            self._open = True
            return
        last, at = self._kept
        if line != last and self._clock() - at >= _KEPT_EVERY:
            self._kept = (line, self._clock())
            self._write(f"{line}\n")

    def done(self) -> None:
        """The last progress stays as it is."""
        if self._open:
            self._write("\n")
        self._open = False

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _width() -> int:
    import shutil

    return shutil.get_terminal_size((120, 24)).columns


def waiting_line(snapshot: Snapshot, seconds: float) -> str:
    """Where the work stands, as one line."""
    end = sum(snapshot.ends.values())
    done = sum(min(position, snapshot.ends.get(shard, 0)) for shard, position in snapshot.positions.items())
    minutes, rest = divmod(int(seconds), 60)
    return (
        f"{minutes:2d}:{rest:02d}  ingested {done:,} of {end:,} in {snapshot.batches} batches, "
        f"{snapshot.hours:,} hours and {snapshot.users:,} users to do  {running(snapshot)}"
    ).rstrip()


def running(snapshot: Snapshot) -> str:
    """The tasks that run now, the shards taken together; where none does, the DAGs whose runs wait."""
    names, again = _names(snapshot, "running"), _names(snapshot, "up_for_retry")
    waiting = _counted(_short(run.dag_id) for run in snapshot.runs if run.state in ("queued", "running"))
    parts = [f"running: {names}"] if names else [f"next: {waiting}"] if waiting else []
    parts += [f"to be tried again: {again}"] if again else []
    return "; ".join(parts)


def _names(snapshot: Snapshot, state: str) -> str:
    return _counted(f"{_short(task.dag_id)}.{task.task_id}" for task in snapshot.tasks if task.state == state)


def _counted(names: Iterable[str]) -> str:
    counts = sorted(Counter(names).items())
    return ", ".join(name if count == 1 else f"{name} × {count}" for name, count in counts)


def _short(dag_id: str) -> str:
    return dag_id.partition("_")[0]
