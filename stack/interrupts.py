"""What Ctrl-C, and any other request to end, does to a command.

A command imports this module before everything else, so it imports next to nothing itself.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import threading

#: The exit code of an interrupted command.
INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def handle_interrupts(handler: Callable[[], None]) -> None:
    """Call ``handler`` in the main thread whenever this process is asked to end."""
    for signum in _SIGNALS:
        # SIGINT explicitly, because a shell without a terminal starts background jobs with SIGINT ignored. A command
        # that ignores SIGHUP was started with nohup.
        if signum != signal.SIGHUP or signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, lambda *_: handler())


def ignore_interrupts() -> None:
    """The command is over, and its exit code is final. Otherwise a signal would kill Python while it exits."""
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


def exit_at_once() -> NoReturn:
    """Exit while there is nothing to clean up, without waiting for threads."""
    # A handler may run in the middle of another print.
    with suppress(Exception):
        sys.stdout.flush()
    say("interrupted: nothing was started or stopped")
    os._exit(INTERRUPTED)


def raise_interrupt() -> NoReturn:
    """Leave whatever the main thread is doing."""
    raise KeyboardInterrupt


def say(line: str) -> None:
    """Print a line to stderr. Handlers may call it at any time."""
    with suppress(OSError):
        os.write(2, f"{line}\n".encode())


@contextmanager
def defer_interrupts(interrupted: threading.Event) -> Iterator[None]:
    """Only set ``interrupted`` until the end of the block, and raise ``KeyboardInterrupt`` there."""
    before = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    handle_interrupts(interrupted.set)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    if interrupted.is_set():
        raise KeyboardInterrupt
