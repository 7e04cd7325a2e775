"""Run the whole pipeline on this machine, from starting the servers to recommendations."""

from __future__ import annotations

import argparse
import fcntl
import os
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from demo.manifest import LOCK_FILE, RECOUNT_FILE, load
from demo.recount import open_input_events
from demo.run import REPORT, Demo, Options
from demo.screen import Screen
from demo.shop import Shop
from include.errors import ConfigurationError, MillraceError
from stack.checks import check_not_full, describe_disk_error
from stack.config import PROJECT, LocalConfig, display_path
from stack.installation import read_config
from stack.interrupts import INTERRUPTED, handle_interrupts, raise_interrupt, say
from stack.private import create_folder, private_umask
from stack.stack import Stack

#: scripts/install.py writes the duration of an installation to this file.
_INSTALLED = PROJECT / ".venv" / ".installed"
_JUST_NOW_S = 15.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if every count is right (the servers keep running), 1 after an error, 130 if interrupted.

    The servers are stopped unless the result is 0.
    """
    started_at = time.time()
    parsed = build_parser().parse_args(arguments)
    handle_interrupts(raise_interrupt)
    screen = Screen()
    try:
        options = parse_options(parsed, os.environ, started_at)
        with _explain_disk_errors(options.config):
            load(options.config.home)  # rejects a folder that is not the demo's before anything is written there
            with _lock(options.config.home), private_umask():
                return _run(options, screen)
    except MillraceError as error:
        return _print_error(screen, error)
    except KeyboardInterrupt:
        screen.print("interrupted")
        return INTERRUPTED


def parse_options(parsed: argparse.Namespace, environment: Mapping[str, str], started_at: float) -> Options:
    """Raises ``ConfigurationError`` for invalid sizes and settings."""
    if not 1 <= parsed.users <= parsed.count:
        raise ConfigurationError(
            f"--users is {parsed.users} and --count is {parsed.count}: "
            "there must be at least one user and at least one event per user"
        )
    config = read_config(environment, Path(parsed.home) if parsed.home else None)
    return Options(
        config=config if parsed.home else config.demo,
        started_at=started_at,
        installation_s=read_installation_seconds(_INSTALLED, started_at),
        file=Path(parsed.events).expanduser().resolve() if parsed.events else None,
        shop=Shop(seed=parsed.seed, users=parsed.users, events=parsed.count),
        report=Path(parsed.report).expanduser().resolve(),
        fresh=parsed.fresh,
        stop_after=parsed.stop_after,
    )


def read_installation_seconds(path: Path, started_at: float) -> float:
    """Returns how long the installation just before this command took, or 0 if there was none."""
    try:
        if started_at - path.stat().st_mtime > _JUST_NOW_S:
            return 0.0
        return max(0.0, float(path.read_text(encoding="ascii")))
    except (OSError, ValueError):
        return 0.0


def _run(options: Options, screen: Screen) -> int:
    stack = Stack(options.config, screen.print_stack_message)
    keep_running = False
    try:
        with (
            _explain_disk_errors(options.config),
            open_input_events(options.config.home / RECOUNT_FILE) as input_events,
        ):
            Demo(options, screen, Console(), input_events).run()
        _print_next_steps(screen, stack)
        keep_running = not options.stop_after
        return 0
    except MillraceError as error:
        # Print it right away: stopping the servers takes a while.
        return _print_error(screen, error)
    except KeyboardInterrupt:
        screen.print("interrupted; run the same command again to resume")
        return INTERRUPTED
    finally:
        if not keep_running:
            _stop(stack)


def _stop(stack: Stack) -> None:
    """Stop every server. A second Ctrl-C must not leave some of them running."""
    handle_interrupts(lambda: say("stopping the servers; this takes at most a minute"))
    with _explain_disk_errors(stack.config):
        stack.down()


@contextmanager
def _explain_disk_errors(config: LocalConfig) -> Iterator[None]:
    """Turn what a full or read-only disk causes into ``ConfigurationError``."""
    try:
        yield
    except OSError as error:
        problem = describe_disk_error(config, error)
        if problem is None:
            raise
        raise ConfigurationError(problem) from error
    except (MillraceError, sqlite3.OperationalError):
        check_not_full(config)
        raise


def _print_error(screen: Screen, error: MillraceError) -> int:
    screen.end_progress()
    print(f"error: {error}", file=sys.stderr, flush=True)
    return 1


def _print_next_steps(screen: Screen, stack: Stack) -> None:
    environment = stack.environment()
    user, password = environment["MILLRACE_AIRFLOW_USER"], environment["MILLRACE_AIRFLOW_PASSWORD"]
    home, python = display_path(stack.config.home), display_path(Path(sys.executable))
    screen.print(f"Airflow:    {environment['MILLRACE_AIRFLOW_URL']} (user {user}, password {password})")
    screen.print(f"Endpoint:   {environment['MILLRACE_READER_URL']}/v1/users/USER/recommendations?limit=10")
    screen.print(f"Status:     {python} -m stack --home {home} status")
    screen.print(f"Stop:       {python} -m stack --home {home} down")


@contextmanager
def _lock(home: Path) -> Iterator[None]:
    home.parent.mkdir(parents=True, exist_ok=True)
    create_folder(home)
    with (home / LOCK_FILE).open("a", encoding="ascii") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"another demo is running in {home}: wait for it to finish, or use a different folder and other ports"
            ) from None
        yield


def build_parser() -> argparse.ArgumentParser:
    shop = Shop()
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--events", metavar="FILE", help="events as .jsonl or .jsonl.gz, instead of the simulated shop")
    parser.add_argument("--seed", type=int, default=shop.seed, help="random seed of the shop (default: %(default)s)")
    parser.add_argument("--users", type=int, default=shop.users, help="number of users (default: %(default)s)")
    parser.add_argument("--count", type=int, default=shop.events, help="number of lines (default: %(default)s)")
    parser.add_argument("--home", help="the demo's own folder (default: MILLRACE_HOME/demo or .local/demo)")
    parser.add_argument("--report", default=str(REPORT), help="report file (default: .local/reports/demo.json)")
    parser.add_argument("--fresh", action="store_true", help="start over instead of resuming an unfinished run")
    stop = parser.add_mutually_exclusive_group()
    stop.add_argument("--stop-after", action="store_true", help="stop the servers after the report")
    stop.add_argument(
        "--keep-running", dest="stop_after", action="store_false", help="leave the servers running (default)"
    )
    return parser
