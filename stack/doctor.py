"""Checks whether this machine can run the local stack, before anything is started: one line per check.

It works on a bare Python without any package: a check that needs a package then says that it was not run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from include.errors import MillraceError
from stack import checks, jars, records
from stack.config import LocalConfig
from stack.server import Report
from stack.servers import SERVERS, postgres
from stack.supervise import Supervisor

#: What the stack itself imports. Without the first two it can neither stop its servers nor see them.
REQUIRED_PACKAGES = ("psutil", "supervisor")
_PACKAGES = (*REQUIRED_PACKAGES, "jgo", "requests")


@dataclass(frozen=True)
class Finding:
    """The result of one check. ``problems`` say what is wrong and what to do; ``detail`` is for information."""

    name: str
    problems: list[str]
    detail: str = ""
    checked: bool = True

    @property
    def symbol(self) -> str:
        """The verdict in two letters."""
        return "NO" if self.problems else "ok" if self.checked else "--"


def examine(config: LocalConfig) -> Iterator[Finding]:
    """The finding of every check. Changes nothing and starts no server."""
    yield Finding("Python", checks.check_python(), _python_detail())
    yield Finding("packages", _check_packages())
    # Only if servers may be running does this check need to know which ones.
    yield _check_with_packages("ports", lambda: _check_ports(config), needed=records.records_exist(config.run))
    existing = checks.nearest_existing_folder(config.home)
    yield Finding("disk", checks.check_disk(config.home, checks.DISK_NEEDED), str(existing))
    yield _check_with_packages("memory", lambda: _check_memory(config))
    yield Finding("folders", _check_folders(config), str(config.home))
    yield Finding("postgres", *_check_postgres(config))
    yield _check_with_packages("jars", lambda: _check_jars(config), needed=bool(_missing_jars(config)))


def print_findings(config: LocalConfig, report: Report) -> bool:
    """Report every finding. Returns whether there are no problems."""
    healthy = True
    for finding in examine(config):
        report(f"{finding.symbol:<3} {finding.name:<10} {finding.detail}".rstrip())
        for problem in finding.problems:
            report(f"    - {problem}")
        healthy = healthy and not finding.problems
    return healthy


def find_missing_packages(names: tuple[str, ...]) -> list[str]:
    """Those of these modules that are not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def _check_with_packages(name: str, check: Callable[[], Finding], needed: bool = True) -> Finding:
    """The finding of a check that needs packages (if ``needed``), or a note that they are not installed."""
    if needed and find_missing_packages(_PACKAGES):
        return Finding(name, [], "not checked: run make setup first", checked=False)
    return check()


def _python_detail() -> str:
    # Only a new virtual environment needs ensurepip, so its absence is not a problem here.
    if importlib.util.find_spec("ensurepip") is None:
        return "(without ensurepip: to create a virtual environment, install python3.12-venv or use uv)"
    return ""


def _check_packages() -> list[str]:
    packages = {*_PACKAGES, *(package for server in SERVERS for package in server.packages)}
    missing = find_missing_packages(tuple(sorted(packages)))
    return [f"{', '.join(missing)} cannot be imported: run make setup"] if missing else []


def _check_ports(config: LocalConfig) -> Finding:
    running = Supervisor(config).states()
    idle = [server for server in SERVERS if server.name not in running or not running[server.name].up]
    detail = f"{len(config.ports)} ports, starting at {min(config.ports.values())}"
    return Finding("ports", checks.check_ports(config, idle), detail)


def _check_memory(config: LocalConfig) -> Finding:
    running = any(state.up for state in Supervisor(config).states().values())
    problems = [] if running else checks.check_memory(checks.MEMORY_NEEDED)
    return Finding("memory", problems, f"about {checks.MEMORY_NEEDED / 1e9:.1f} GB needed")


def _check_folders(config: LocalConfig) -> list[str]:
    """Folders that this user cannot write to, and a home that belongs to another user or exposes its secrets."""
    problems = []
    for folder in (config.home, config.jar_cache):
        existing = checks.nearest_existing_folder(folder)
        if not os.access(existing, os.W_OK | os.X_OK):
            problems.append(f"this user cannot write to {existing}: change its owner, or set MILLRACE_HOME")
    secrets = config.home / "secrets.json"
    with contextlib.suppress(FileNotFoundError):
        status = secrets.stat()
        if status.st_uid != os.geteuid():
            owner = f"another user (id {status.st_uid})"
            problems.append(f"{config.home} belongs to {owner}: run this as that user, or delete the folder")
        elif status.st_mode & 0o077:
            problems.append(f"other users can read {secrets}: chmod 600 {secrets}")
    return problems


def _check_postgres(config: LocalConfig) -> tuple[list[str], str]:
    try:
        account, folder = postgres.service_account(config), postgres.data_root(config)
    except MillraceError as exc:
        return [str(exc)], ""
    detail = f"runs as {account.name}, because this user is root" if account else "runs as this user"
    return [], detail if folder.is_relative_to(config.home) else f"{detail}; its data is in {folder}"


def _missing_jars(config: LocalConfig) -> list[jars.Jar]:
    return [jar for jar in jars.read_lock() if not (config.jar_cache / jar.file).exists()]


def _check_jars(config: LocalConfig) -> Finding:
    missing, total = len(_missing_jars(config)), len(jars.read_lock())
    if not missing:
        return Finding("jars", [], f"all {total} are in {config.jar_cache}")
    problems = [] if jars.is_repository_reachable() else [f"{missing} of {total} are missing. {jars.NETWORK_HINT}"]
    return Finding("jars", problems, f"{missing} of {total} not downloaded yet")
