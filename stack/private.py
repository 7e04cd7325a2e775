"""Folders and files that only the user who runs the stack can read, whatever the umask of the shell."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from include.errors import ConfigurationError
from stack.launch import UMASK


@contextlib.contextmanager
def private_umask() -> Iterator[None]:
    """New files and folders of this process are private, unless their mode is set explicitly."""
    before = os.umask(UMASK)
    try:
        yield
    finally:
        os.umask(before)


def create_folder(folder: Path) -> None:
    """Create a folder and its missing parents, all of them private. Those that exist keep their mode."""
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    for part in reversed(missing):
        part.mkdir(mode=0o700, exist_ok=True)


def create_owned_folder(folder: Path, mode: int, advice: str) -> Path:
    """Create a folder in a world-writable place. Refuses a link, and a folder that another user created."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.lstat().st_uid != os.geteuid() or folder.is_symlink():
        raise ConfigurationError(f"{folder} belongs to another user: remove it, or {advice}")
    folder.chmod(mode)
    return folder


def allow_passage(folder: Path, group: int) -> None:
    """Make a folder private, except that a group may pass through it: its members cannot list it."""
    os.chown(folder, -1, group)
    folder.chmod(0o710)


def restrict(root: Path, group: int | None = None) -> None:
    """Make a folder and everything below it private: older versions, and other programs, left some of it readable.

    Folders that ``group`` may pass through stay that way. Files and folders of other users are left alone, because
    changing the mode of what another user can replace is not safe; so are symbolic links.
    """
    pending = [root]
    while pending:
        folder = pending.pop()
        # A running server may delete it meanwhile.
        with contextlib.suppress(FileNotFoundError):
            _remove_permissions(folder, folder.stat(), group)
            pending += _restrict_files(folder)


def _restrict_files(folder: Path) -> list[Path]:
    """Make the files of a folder private. Returns its folders that are still to be restricted."""
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if status.st_uid != os.geteuid() or stat.S_ISLNK(status.st_mode):
                    continue
                if stat.S_ISDIR(status.st_mode):
                    folders.append(Path(entry.path))
                else:
                    _remove_permissions(Path(entry.path), status)
    return folders


def _remove_permissions(path: Path, status: os.stat_result, group: int | None = None) -> None:
    mode = stat.S_IMODE(status.st_mode)
    private = mode & (0o710 if status.st_gid == group else 0o700)
    if mode != private:
        path.chmod(private)
