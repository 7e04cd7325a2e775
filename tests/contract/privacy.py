"""What another user of the machine could read of a running stack."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from stack import records
from stack.listeners import find_open_addresses
from stack.servers import postgres
from stack.stack import Stack

#: A user id that no one has.
STRANGER = 61_234

#: Reads paths as JSON, becomes the stranger, and prints the folders it can list and the files it can read.
READ_AS_STRANGER = f"""
import json, os, sys
paths = json.load(sys.stdin)
os.setgroups([])
os.setgid({STRANGER})
os.setuid({STRANGER})
readable = []
for path in paths:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError:
        continue
    readable.append(path)
json.dump(readable, sys.stdout)
"""


def list_exposed_paths(stack: Stack) -> list[str]:
    """The folders and files of a stack whose mode grants anything to others than the user they belong to.

    Folders that PostgreSQL's group may pass through, which root needs, are not among them.
    """
    group = postgres.service_group(stack.config)
    return [str(path) for path, status in _walk(stack) if _is_exposed(status, group)]


def list_paths_readable_by_a_stranger(stack: Stack) -> list[str]:
    """The folders and files of a stack that another user of the machine opens successfully. Needs root."""
    paths = [str(path) for path, _ in _walk(stack)]
    command = [sys.executable, "-I", "-S", "-c", READ_AS_STRANGER]
    done = subprocess.run(command, input=json.dumps(paths), capture_output=True, text=True, check=True, timeout=120)
    readable: list[str] = json.loads(done.stdout)
    return readable


def list_exposed_secrets(stack: Stack) -> list[str]:
    """The processes of the machine whose arguments, which every user can read, contain a secret of this stack."""
    secrets = [value for value in stack.secrets.values.values() if value]
    exposing = []
    for process in psutil.process_iter(["cmdline"]):
        arguments = " ".join(process.info["cmdline"] or ())
        if any(secret in arguments for secret in secrets):
            exposing.append(f"{process.pid} {process.name()}")
    return exposing


def list_open_addresses(stack: Stack) -> list[str]:
    """The addresses outside the loopback interface on which a process of this stack listens."""
    return find_open_addresses(records.find_processes(stack.config.run), list(stack.config.ports.values()))


def _walk(stack: Stack) -> Iterator[tuple[Path, os.stat_result]]:
    pending = [stack.config.home, postgres.data_root(stack.config)]
    while pending:
        path = pending.pop()
        try:
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode):
                pending += path.iterdir()
        except FileNotFoundError:  # a running server has deleted it
            continue
        yield path, status


def _is_exposed(status: os.stat_result, group: int | None) -> bool:
    if stat.S_ISLNK(status.st_mode):
        return False
    may_pass = stat.S_ISDIR(status.st_mode) and status.st_gid == group
    return bool(stat.S_IMODE(status.st_mode) & (0o067 if may_pass else 0o077))
