"""Disks that are full or read-only, for tests of what a command then says."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A small disk at ``folder``. Skips the test where this user may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a disk, so a full or read-only one cannot be tested here")
    try:
        yield folder
    finally:
        while folder.is_mount():
            # Lazily: a process that was just killed may still have a file open.
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def make_read_only(disk: Path) -> None:
    """Forbid every write to a mounted disk from now on, although files on it are open for writing."""
    subprocess.run(["mount", "--bind", str(disk), str(disk)], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", str(disk)], check=True)


def fill(disk: Path) -> None:
    """Leave no space on a mounted disk."""
    with (disk / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass
