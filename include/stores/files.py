"""Arrow files between tasks, on any path that fsspec supports: file://, s3://, gs:// and so on."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

import fsspec
import pyarrow as pa

from include.errors import StagedBatchMissingError, TransientError


class ArrowFiles:
    """``ports.BatchStore`` below ``url``."""

    def __init__(self, url: str) -> None:
        self._fs, root = fsspec.core.url_to_fs(url)
        # fsspec takes a file URL as it is written, and would create a folder named Jos%C3%A9 for José.
        self._root = unquote(root) if url.startswith("file:") else root

    def write(self, name: str, table: pa.Table) -> None:
        path = self._path(name)
        buffer = io.BytesIO()
        with pa.ipc.new_file(buffer, table.schema) as writer:
            writer.write_table(table)
        try:
            if "file" in self._fs.protocol:
                _write_private(Path(path), buffer.getbuffer())
                return
            # An object store shows only complete objects, and has its own access control.
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            with self._fs.open(path, "wb") as file:
                file.write(buffer.getbuffer())
        except OSError as error:
            raise TransientError(f"cannot write {path}: {_describe(error)}; see MILLRACE_BATCH_PATH") from None

    def read(self, name: str) -> pa.Table:
        path = self._path(name)
        try:
            with self._fs.open(path, "rb") as file:
                return pa.ipc.open_file(pa.BufferReader(file.read())).read_all()
        except FileNotFoundError:
            raise StagedBatchMissingError(
                f"{path} does not exist: files are deleted when their run ends. Clear the run from its first task on"
            ) from None
        except OSError as error:
            raise TransientError(f"cannot read {path}: {_describe(error)}; see MILLRACE_BATCH_PATH") from None

    def delete(self, prefix: str) -> None:
        path = self._path(prefix.rstrip("/"))
        try:
            self._fs.rm(path, recursive=True)
        except FileNotFoundError:
            return
        except OSError as error:
            raise TransientError(f"cannot delete {path}: {_describe(error)}; see MILLRACE_BATCH_PATH") from None

    def find_folders(self, prefix: str) -> Sequence[str]:
        path = self._path(prefix.rstrip("/"))
        self._fs.invalidate_cache()  # an object store's client remembers listings
        try:
            entries = self._fs.ls(path, detail=True)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise TransientError(f"cannot list {path}: {_describe(error)}; see MILLRACE_BATCH_PATH") from None
        return [entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == "directory"]

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _describe(error: OSError) -> str:
    """The system's words for the error, without what else an object store's client may quote."""
    return error.strerror or type(error).__name__


def _write_private(path: Path, content: memoryview) -> None:
    """Write a file that only this user can read, whatever the umask; the folders that it creates are private too.

    The file is renamed when it is complete: readers never see half of it, nor does a task that was presumed dead and
    writes at the same time as its successor.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    with open(partial, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)
    partial.replace(path)
