"""``python -m demo``: the whole job, from a clone to recommendations."""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from demo.manifest import LOCK_FILE, RECOUNT_FILE, load
from demo.recount import recount
from demo.run import REPORT, Demo, Options
from demo.screen import Screen
from demo.shop import Shop
from include.errors import ConfigurationError, MillraceError
from stack.config import PROJECT, LocalConfig, near
from stack.stack import Stack

#: The Makefile leaves here how long the installation took, when it has just made one.
_INSTALLED = PROJECT / ".venv" / ".installed"
_JUST_NOW = 15.0
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every figure is right and the servers are left running; else 1, or 130 when interrupted, and they are not.

    The message of an error says what to do.
    """
    began = time.time()
    given = _parser().parse_args(arguments)
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _interrupt)
    screen = Screen()
    try:
        options = options_from(given, os.environ, began)
        load(options.config.home)  # refuses a folder that is not the demo's before anything is put there
        with _alone(options.config.home):
            return _run(options, screen)
    except MillraceError as error:
        return _failed(screen, error)
    except KeyboardInterrupt:
        screen.say("interrupted")
        return _INTERRUPTED


def options_from(given: argparse.Namespace, environment: Mapping[str, str], began: float) -> Options:
    """Raises ``ConfigurationError`` for sizes and settings that make no sense."""
    if not 1 <= given.users <= given.count:
        raise ConfigurationError(f"--users is {given.users} and --count {given.count}: one event a user is the least")
    config = LocalConfig.from_env(environment, Path(given.home) if given.home else None)
    return Options(
        config=config if given.home else config.demo,
        began=began,
        installed=installation_seconds(_INSTALLED, began),
        file=Path(given.events).expanduser().resolve() if given.events else None,
        shop=Shop(seed=given.seed, users=given.users, events=given.count),
        report=Path(given.report).expanduser().resolve(),
        fresh=given.fresh,
        stop_after=given.stop_after,
    )


def installation_seconds(installed: Path, began: float) -> float:
    """How long ``make`` took to install before this command, 0 when it had nothing to do."""
    try:
        if began - installed.stat().st_mtime > _JUST_NOW:
            return 0.0
        return max(0.0, float(installed.read_text(encoding="ascii")))
    except (OSError, ValueError):
        return 0.0


def _run(options: Options, screen: Screen) -> int:
    stack = Stack(options.config, screen.said)
    finished = False
    try:
        with recount(options.config.home / RECOUNT_FILE) as counted:
            Demo(options, screen, Console(), counted).run()
        _say_goodbye(screen, stack)
        finished = not options.stop_after
        return 0
    except MillraceError as error:
        # Told at once: ending the servers takes a while.
        return _failed(screen, error)
    except KeyboardInterrupt:
        screen.say("interrupted; the same command goes on from here")
        return _INTERRUPTED
    finally:
        if not finished:
            _end(stack)


def _end(stack: Stack) -> None:
    """End every server; a second Ctrl-C must not leave half of them."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    stack.down()


def _failed(screen: Screen, error: MillraceError) -> int:
    screen.done()
    print(f"error: {error}", file=sys.stderr, flush=True)
    return 1


def _say_goodbye(screen: Screen, stack: Stack) -> None:
    known = stack.environment()
    home, python = near(stack.config.home), near(Path(sys.executable))
    screen.say(f"Airflow:    {known['MILLRACE_AIRFLOW_URL']}")
    screen.say(f"            user {known['MILLRACE_AIRFLOW_USER']}, password {known['MILLRACE_AIRFLOW_PASSWORD']}")
    screen.say(f"Endpoint:   {known['MILLRACE_READER_URL']}/v1/users/USER/recommendations?limit=10")
    screen.say(f"To look:    {python} -m stack --home {home} status")
    screen.say(f"To stop:    {python} -m stack --home {home} down")


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    home.mkdir(parents=True, exist_ok=True)
    with (home / LOCK_FILE).open("a", encoding="ascii") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"another demo is running in {home}: wait for it, or give this one a folder and ports of its own"
            ) from None
        yield


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    shop = Shop()
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--events", metavar="FILE", help="a .jsonl or .jsonl.gz of events instead of the shop")
    parser.add_argument("--seed", type=int, default=shop.seed, help=f"another shop ({shop.seed})")
    parser.add_argument("--users", type=int, default=shop.users, help=f"users of the shop ({shop.users})")
    parser.add_argument("--count", type=int, default=shop.events, help=f"lines of the shop ({shop.events})")
    parser.add_argument("--home", help="the demo's own folder (MILLRACE_HOME/demo, default .local/demo)")
    parser.add_argument("--report", default=str(REPORT), help="where the report goes (.local/reports/demo.json)")
    parser.add_argument("--fresh", action="store_true", help="begin anew, even if a run of this input is unfinished")
    stop = parser.add_mutually_exclusive_group()
    stop.add_argument("--stop-after", action="store_true", help="end the servers after the report")
    stop.add_argument("--keep-running", dest="stop_after", action="store_false", help="leave them running (default)")
    return parser
