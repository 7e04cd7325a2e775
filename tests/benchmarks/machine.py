"""Shared by the benchmarks: temporary servers, timing and output."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from demo.screen import Screen
from stack.installation import config_on_free_ports
from stack.stack import Stack

SHARDS = 4
_INTERRUPTED = 130


@contextmanager
def temporary_stack(screen: Screen, *servers: str, shards: int = SHARDS) -> Iterator[Stack]:
    """Start these servers (all by default) on free ports in a temporary folder; stop and delete them on exit."""
    # Not under a private folder: PostgreSQL may run as another user, who must be able to enter.
    home = Path(tempfile.mkdtemp(prefix="millrace-bench-"))
    stack = Stack(config_on_free_ports(home, environment={"MILLRACE_SHARDS": str(shards)}), screen.print_stack_message)
    try:
        stack.up(servers or None)
        yield stack
    finally:
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        screen.end_progress()
        stack.reset()
        shutil.rmtree(home, ignore_errors=True)
        signal.signal(signal.SIGINT, handler)


def run_main(main: Callable[[], int]) -> NoReturn:
    """Run ``main`` so that it also cleans up after Ctrl-C and SIGTERM; exit with its return value."""
    signal.signal(signal.SIGTERM, _raise_interrupt)
    try:
        code = main()
    except KeyboardInterrupt:
        print("interrupted; everything that was started has been stopped", file=sys.stderr)
        code = _INTERRUPTED
    sys.exit(code)


def _raise_interrupt(_: int, __: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def describe_machine() -> str:
    """Describe the machine and its load, for the first line of output."""
    return f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"


@dataclass
class Clock:
    """Adds up the time spent in its contexts."""

    seconds: float = 0.0

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Add the duration of this block."""
        started_at = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started_at

    def rate(self, rows: int) -> float:
        """Returns the rows per second."""
        return rows / self.seconds if self.seconds else 0.0


def print_rate(name: str, rows: int, seconds: float, unit: str = "rows") -> None:
    """Print one line with the rate, the number of rows and the duration."""
    rate = rows / seconds if seconds else 0.0
    print(f"{name:34} {rate:11,.0f} {unit}/s  ({rows:,} in {seconds:.2f} s)")


def print_verdict(name: str, value: float, target: float, at_most: bool = False, unit: str = "") -> None:
    """Print one line with a result and its target. Missing a target is not a failure: the machine may be slow."""
    reached = value <= target if at_most else value >= target
    bound = "at most" if at_most else "at least"
    print(f"{name}: {value:.2f}{unit}, target {bound} {target:g}{unit}: {'reached' if reached else 'MISSED'}")


@dataclass
class Results:
    """Collects wrong results. Timing is never wrong."""

    wrong: int = 0

    def expect_equal(self, name: str, actual: int, expected: int) -> None:
        """Check a count."""
        if actual != expected:
            self.fail(f"{name}: {actual:,}, expected {expected:,}")

    def fail(self, message: str) -> None:
        """Print and count a wrong result."""
        self.wrong += 1
        print(f"WRONG  {message}")

    def exit_code(self) -> int:
        """Print a summary. Returns 1 if anything was wrong."""
        print(f"{self.wrong} results are wrong" if self.wrong else "all results are correct")
        return int(self.wrong > 0)
