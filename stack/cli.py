"""``python -m stack``: the local servers from the command line."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from include.errors import MillraceError
from include.settings import Settings
from stack.config import LocalConfig, near
from stack.doctor import report
from stack.environment import client_environment, shell_lines
from stack.logs import show
from stack.shards import shard_table
from stack.stack import Stack
from stack.status import table
from stack.supervise import Supervisor


def main(arguments: list[str] | None = None) -> int:
    """0 when done, 1 with a message that says what to do, 130 when interrupted; then nothing is left running."""
    options = _parser().parse_args(arguments)
    _on_signals(_stay if options.command in ("down", "reset") else _interrupt)
    config = None
    try:
        home = Path(options.home).resolve() if options.home else None
        config = LocalConfig.from_env(os.environ, home)
        code = int(_COMMANDS[options.command](config, options))
        if options.command in ("down", "status", "doctor"):
            _point_to_demo(config)
        return code
    except MillraceError as exc:
        print(f"error: {exc}", file=sys.stderr)
        if config is not None:
            _point_to_demo(config)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _point_to_demo(config: LocalConfig) -> None:
    """The demo's stack has a home of its own within this one; who has just run it may well mean that."""
    if Supervisor(config.demo).alive:
        folder = near(config.demo.home)
        print(f"the demo's servers run in {folder}; for those say MILLRACE_HOME={folder}, or --home", file=sys.stderr)


def _on_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    # SIGINT as well: what a shell without a terminal puts in the background begins with SIGINT ignored.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, handler)


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    # Once is enough: a second Ctrl-C must not cut the ending short.
    _on_signals(_stay)
    raise KeyboardInterrupt


def _stay(_signum: int, _frame: FrameType | None) -> None:
    print("ending the servers; this takes at most a minute", file=sys.stderr, flush=True)


def _say(line: str) -> None:
    print(line, flush=True)


def _up(config: LocalConfig, options: argparse.Namespace) -> int:
    Stack(config, _say).up(options.only.split(",") if options.only else None)
    return 0


def _down(config: LocalConfig, _: argparse.Namespace) -> int:
    Stack(config, _say).down()
    return 0


def _status(config: LocalConfig, _: argparse.Namespace) -> int:
    rows = Stack(config, _say).status()
    print(table(rows))
    answering = {row.name for row in rows if row.answers}
    if {"kafka", "postgres"} <= answering:
        print()
        print(shard_table(Settings.from_environment(client_environment(config))))
    # A server that nobody started is no fault, unless that is all of them.
    return 0 if answering and all(row.answers or row.state == "stopped" for row in rows) else 1


def _env(config: LocalConfig, _: argparse.Namespace) -> int:
    print(shell_lines(client_environment(config)), end="")
    return 0


def _reset(config: LocalConfig, options: argparse.Namespace) -> int:
    if not options.yes and not _agreed(f"Stop the servers and delete their data in {config.home}? [y/N] "):
        print("nothing was done")
        return 1
    Stack(config, _say).reset()
    return 0


def _agreed(question: str) -> bool:
    try:
        return input(question) == "y"
    except EOFError:
        # Nobody is there to ask, as in a script without --yes.
        print()
        return False


def _logs(config: LocalConfig, options: argparse.Namespace) -> int:
    show(config, options.server, options.lines, options.follow)
    return 0


def _doctor(config: LocalConfig, _: argparse.Namespace) -> int:
    return 0 if report(config, _say) else 1


def _lock_jars(_config: LocalConfig, _: argparse.Namespace) -> int:
    from stack.jars_lock import write_lock

    write_lock(_say)
    return 0


_COMMANDS = {
    "up": _up,
    "down": _down,
    "status": _status,
    "env": _env,
    "reset": _reset,
    "logs": _logs,
    "doctor": _doctor,
    "lock-jars": _lock_jars,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stack", description=__doc__)
    parser.add_argument("--home", help="the folder of this installation (MILLRACE_HOME, default .local)")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start the servers; return when each one answers")
    up.add_argument("--only", metavar="A,B", help="these servers and what they need")
    commands.add_parser("down", help="end every process of this installation")
    commands.add_parser("status", help="what runs and answers; lag and last batch of each shard")
    commands.add_parser("env", help="export lines for clients")
    reset = commands.add_parser("reset", help="down, then delete the data; downloads stay")
    reset.add_argument("--yes", action="store_true", help="do not ask")
    logs = commands.add_parser("logs", help="the last lines of the servers' logs")
    logs.add_argument("server", nargs="?", help="one server; all by default")
    logs.add_argument("-n", "--lines", type=int, default=20, help="how many (20)")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what is written, until Ctrl-C")
    commands.add_parser("doctor", help="whether this machine can run the servers, and what to do if not")
    commands.add_parser("lock-jars", help="make stack/jars.lock again")
    return parser
