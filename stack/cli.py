"""``python -m stack``: the local servers from the command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from include.errors import ConfigurationError, MillraceError
from stack import records
from stack.checks import describe_disk_error
from stack.config import LocalConfig, display_path
from stack.doctor import REQUIRED_PACKAGES, find_missing_packages, print_findings
from stack.installation import client_environment, format_shell_lines, read_config
from stack.interrupts import INTERRUPTED, exit_at_once, handle_interrupts, say
from stack.logs import show_logs
from stack.stack import Stack
from stack.status import format_table
from stack.supervise import Supervisor

#: These work on a bare Python, without any package.
_BARE_COMMANDS = ("doctor", "env", "logs")
#: So do these, as long as nothing has been started.
_BARE_COMMANDS_UNLESS_STARTED = ("down", "status", "reset")


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 on success, 1 after an error message that says what to do, 130 when interrupted.

    After an interrupted command, nothing that it started is left running. ``down`` and ``reset`` finish what they have
    begun.
    """
    options = _build_parser().parse_args(arguments)
    handle_interrupts(exit_at_once)
    config = None
    try:
        config = read_config(os.environ, Path(options.home) if options.home else None)
        if _needs_packages(options.command, config):
            _require_packages()
        code = _COMMANDS[options.command](config, options)
        if options.command in ("down", "status", "doctor"):
            _point_to_demo(config)
        return code
    except MillraceError as exc:
        say(f"error: {exc}")
        if config is not None:
            _point_to_demo(config)
        return 1
    except OSError as exc:
        problem = describe_disk_error(config, exc) if config else None
        if problem is None:
            raise
        say(f"error: {problem}")
        return 1
    except KeyboardInterrupt:
        say("interrupted: everything that this command started has been stopped")
        return INTERRUPTED


def _needs_packages(command: str, config: LocalConfig) -> bool:
    if command in _BARE_COMMANDS_UNLESS_STARTED:
        return records.records_exist(config.run)
    return command not in _BARE_COMMANDS


def _require_packages() -> None:
    missing = find_missing_packages(REQUIRED_PACKAGES)
    if missing:
        raise ConfigurationError(f"the Python packages {', '.join(missing)} are not installed: run make setup first")


def _point_to_demo(config: LocalConfig) -> None:
    """The demo's servers have their own home inside this one; a user who has just run the demo may mean those."""
    if not find_missing_packages(REQUIRED_PACKAGES) and Supervisor(config.demo).alive:
        home = display_path(config.demo.home)
        print(f"the demo's servers run in {home}; to use them, set MILLRACE_HOME={home} or --home", file=sys.stderr)


def _finish() -> None:
    """From now on, the command cannot be interrupted."""
    handle_interrupts(lambda: say("stopping the servers; this takes at most a minute"))


def _report(line: str) -> None:
    # Whoever reads the output may have gone, and the disk it goes to may be full: neither is a reason to stop halfway.
    try:
        print(line, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _up(config: LocalConfig, options: argparse.Namespace) -> int:
    stack = Stack(config, _report)
    handle_interrupts(stack.interrupted.set)
    stack.up(options.only.split(",") if options.only else None)
    return 0


def _down(config: LocalConfig, _: argparse.Namespace) -> int:
    if not Stack(config, _report, on_locked=_finish).down():
        _report(f"nothing is running in {display_path(config.home)}")
    return 0


def _status(config: LocalConfig, _: argparse.Namespace) -> int:
    if not records.records_exist(config.run):
        _report(f"nothing is running in {display_path(config.home)}; start the servers with make up")
        return 1
    if not Supervisor(config).alive and (left := records.find_processes(config.run)):
        _report(
            f"the supervisor in {display_path(config.home)} was killed, but {len(left)} processes of its servers still "
            "run: restart them with make up, or stop them with make down"
        )
        return 1
    rows = Stack(config, _report).status()
    print(format_table(rows))
    healthy = {row.name for row in rows if row.healthy}
    if {"kafka", "postgres"} <= healthy:
        # The drivers take a while to import.
        from include.settings import EnvironmentSettings
        from stack.shards import format_shards

        print()
        print(format_shards(EnvironmentSettings(client_environment(config))))
    # Servers that were never started are not a failure, unless none is up.
    return 0 if healthy and all(row.healthy or row.state == "stopped" for row in rows) else 1


def _env(config: LocalConfig, _: argparse.Namespace) -> int:
    print(format_shell_lines(client_environment(config)), end="")
    return 0


def _reset(config: LocalConfig, options: argparse.Namespace) -> int:
    stack = Stack(config, _report, on_locked=_finish)
    if not stack.has_state():
        _report(f"nothing is running in {display_path(config.home)}, and there is no data to delete")
        return 0
    if not options.yes and not _confirm(f"Stop the servers and delete their data in {config.home}? [y/N] "):
        print("nothing was deleted")
        return 1
    stack.reset()
    return 0


def _confirm(question: str) -> bool:
    try:
        return input(question) == "y"
    except EOFError:
        # There is no one to answer, as in a script without --yes.
        print()
        return False


def _logs(config: LocalConfig, options: argparse.Namespace) -> int:
    show_logs(config, options.server, options.lines, options.follow)
    return 0


def _doctor(config: LocalConfig, _: argparse.Namespace) -> int:
    return 0 if print_findings(config, _report) else 1


def _lock_jars(_config: LocalConfig, _: argparse.Namespace) -> int:
    from stack.jars_lock import write_lock

    write_lock(_report)
    return 0


_COMMANDS: dict[str, Callable[[LocalConfig, argparse.Namespace], int]] = {
    "up": _up,
    "down": _down,
    "status": _status,
    "env": _env,
    "reset": _reset,
    "logs": _logs,
    "doctor": _doctor,
    "lock-jars": _lock_jars,
}


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stack", description=__doc__)
    parser.add_argument("--home", help="the folder of this installation (MILLRACE_HOME, default .local)")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start the servers and wait until each is healthy")
    up.add_argument("--only", metavar="A,B", help="only these servers and the servers they need")
    commands.add_parser("down", help="stop every process of this installation")
    commands.add_parser("status", help="show state and health of each server, and the progress of each shard")
    commands.add_parser("env", help="print export lines for clients")
    reset = commands.add_parser("reset", help="stop the servers and delete their data; downloads stay")
    reset.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    logs = commands.add_parser("logs", help="show the last lines of the servers' logs")
    logs.add_argument("server", nargs="?", help="one server (default: all)")
    logs.add_argument("-n", "--lines", type=int, default=20, help="the number of lines (default: 20)")
    logs.add_argument("-f", "--follow", action="store_true", help="follow the logs until Ctrl-C")
    commands.add_parser("doctor", help="check whether this machine can run the servers, and what to do if not")
    commands.add_parser("lock-jars", help="regenerate stack/jars.lock")
    return parser
