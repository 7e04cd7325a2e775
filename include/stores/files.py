"""Arrow files between tasks, on any path that fsspec supports: file://, s3://, gs:// and so on."""

from __future__ import annotations

import io
import uuid

import fsspec
import pyarrow as pa

from include.errors import StagedBatchMissingError, TransientError


class ArrowFiles:
    """``ports.BatchStore`` below ``url``."""

    def __init__(self, url: str) -> None:
        self._fs, self._root = fsspec.core.url_to_fs(url)

    def write(self, name: str, table: pa.Table) -> None:
        path = self._path(name)
        buffer = io.BytesIO()
        with pa.ipc.new_file(buffer, table.schema) as writer:
            writer.write_table(table)
        try:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            # On a disk readers can see an incomplete file, so it is renamed when it is complete; an object store shows
            # only complete objects. A task that was presumed dead may write at the same time as its successor.
            partial = f"{path}.{uuid.uuid4().hex}.partial" if "file" in self._fs.protocol else path
            with self._fs.open(partial, "wb") as file:
                file.write(buffer.getbuffer())
            if partial != path:
                self._fs.mv(partial, path)
        except OSError as error:
            raise TransientError(f"cannot write {path}: {error}; see MILLRACE_BATCH_PATH") from error

    def read(self, name: str) -> pa.Table:
        path = self._path(name)
        try:
            with self._fs.open(path, "rb") as file:
                return pa.ipc.open_file(pa.BufferReader(file.read())).read_all()
        except FileNotFoundError as error:
            raise StagedBatchMissingError(
                f"{path} does not exist: files are deleted when their run ends. Clear the run from its first task on"
            ) from error
        except OSError as error:
            raise TransientError(f"cannot read {path}: {error}; see MILLRACE_BATCH_PATH") from error

    def delete(self, prefix: str) -> None:
        path = self._path(prefix.rstrip("/"))
        try:
            self._fs.rm(path, recursive=True)
        except FileNotFoundError:
            return
        except OSError as error:
            raise TransientError(f"cannot delete {path}: {error}; see MILLRACE_BATCH_PATH") from error

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"
