"""What the benchmarks share: servers of their own, the screen, and lines of figures."""

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
from stack.config import LocalConfig
from stack.stack import Stack

SHARDS = 4
_INTERRUPTED = 130


@contextmanager
def own_stack(screen: Screen, *servers: str, shards: int = SHARDS) -> Iterator[Stack]:
    """These servers (all by default) on free ports in a temporary folder; ended and deleted whatever happens."""
    # PostgreSQL may run as another user, who has to be able to enter: see Stack.
    home = Path(tempfile.mkdtemp(prefix="millrace-bench-"))
    stack = Stack(LocalConfig.with_free_ports(home, environment={"MILLRACE_SHARDS": str(shards)}), screen.said)
    try:
        stack.up(servers or None)
        yield stack
    finally:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        screen.done()
        stack.reset()
        shutil.rmtree(home, ignore_errors=True)
        signal.signal(signal.SIGINT, before)


def ended_by_signals(main: Callable[[], int]) -> NoReturn:
    """Run ``main`` so that Ctrl-C and SIGTERM end what it started; exit with its code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = main()
    except KeyboardInterrupt:
        print("interrupted; everything that was started is ended", file=sys.stderr)
        code = _INTERRUPTED
    sys.exit(code)


def _interrupt(_: int, __: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def conditions() -> str:
    """Under what conditions the figures come about, for the first line."""
    return f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"


@dataclass
class Clock:
    """Seconds spent inside its contexts, all together."""

    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of this block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - began

    def rate(self, rows: int) -> float:
        """Rows a second."""
        return rows / self.seconds if self.seconds else 0.0


def show_rate(name: str, rows: int, seconds: float, what: str = "rows") -> None:
    """One line: how many, how long, how many a second."""
    rate = rows / seconds if seconds else 0.0
    print(f"{name:34} {rate:11,.0f} {what}/s  ({rows:,} in {seconds:.2f} s)")


def verdict(name: str, value: float, target: float, at_most: bool = False, unit: str = "") -> None:
    """One line: the figure against its target. A missed target is no failure: it may be the machine's."""
    reached = value <= target if at_most else value >= target
    sign = "at most" if at_most else "at least"
    print(f"{name}: {value:.2f}{unit}, target {sign} {target:g}{unit}: {'reached' if reached else 'MISSED'}")


@dataclass
class Results:
    """Whether what came out is right; timing never makes it wrong."""

    wrong: int = 0

    def equal(self, name: str, found: int, expected: int) -> None:
        """Hold a count by what it must be."""
        if found != expected:
            self.fail(f"{name}: {found:,} found, {expected:,} expected")

    def fail(self, sentence: str) -> None:
        """Something is wrong."""
        self.wrong += 1
        print(f"WRONG  {sentence}")

    def exit_code(self) -> int:
        """1 if anything was wrong; says so either way."""
        print(f"{self.wrong} results are wrong" if self.wrong else "all results are right")
        return int(self.wrong > 0)
