"""Arrow files between tasks, on a disk and in an object store."""

from __future__ import annotations

import os
import resource
import stat
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from include.domain.batch import EVENT_SCHEMA, events_table
from include.errors import StagedBatchMissingError, TransientError
from include.stores.files import ArrowFiles
from tests.contract.events import event, record

NAME = "batches/one/events.arrow"


@pytest.fixture(params=["file", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> ArrowFiles:
    """An empty location; ``memory`` shows an object only once it is complete, like an object store."""
    return ArrowFiles(f"file://{tmp_path}/deep/er" if request.param == "file" else f"memory://{uuid.uuid4().hex}")


def table(number: int, rows: int = 3) -> pa.Table:
    """Rows that all contain ``number``."""
    return pa.table({"number": [number] * rows})


def test_a_table_is_read_back_unchanged(files: ArrowFiles) -> None:
    """Schema and rows stay the same, even of empty tables and unusual texts; folders are created as needed."""
    odd = events_table([(record(7), event(text='a "quoted"\n\U0001f9e1', value=-0.0, occurred_at=-62135596800000))])
    for name, expected in [("a.arrow", odd), ("b/c/d.arrow", EVENT_SCHEMA.empty_table()), ("b/e.arrow", table(1))]:
        files.write(name, expected)
        actual = files.read(name)
        assert actual.equals(expected)
        assert actual.schema.equals(expected.schema)


def test_the_last_write_wins(files: ArrowFiles) -> None:
    """A task that runs again replaces its file."""
    for number, rows in [(1, 1000), (2, 3)]:
        files.write(NAME, table(number, rows))
    assert files.read(NAME).equals(table(2, 3))


def test_a_missing_file_says_where_to_restart(files: ArrowFiles) -> None:
    """The error names the missing file and the task to clear, whether or not the folder exists."""
    files.write(NAME, table(1))
    for name in ("batches/one/vectors.arrow", "batches/two/events.arrow"):
        with pytest.raises(StagedBatchMissingError, match=rf"{name} does not exist.*Clear the run from its first task"):
            files.read(name)


def test_deleting_a_folder_spares_folders_with_the_same_prefix(files: ArrowFiles) -> None:
    """Only the files of the folder are deleted, and deleting a folder that does not exist is not an error."""
    names = [f"batches/{name}.arrow" for name in ("a/1", "a/b/2", "ab/1", "b/1")]
    for name in names:
        files.write(name, table(1))
    for _ in range(2):
        files.delete("batches/a/")
    files.delete("precompute/never/")
    for name in names[:2]:
        with pytest.raises(StagedBatchMissingError):
            files.read(name)
    for name in names[2:]:
        assert files.read(name).equals(table(1))


def test_folders_are_found_by_name(files: ArrowFiles) -> None:
    """The names of the folders below a folder, without files and without deeper folders; none if it does not exist."""
    for name in ("runs/a/1.arrow", "runs/b/c/2.arrow", "runs/3.arrow", "other/4.arrow"):
        files.write(name, table(1))
    assert sorted(files.find_folders("runs/")) == ["a", "b"]
    assert files.find_folders("never/") == []
    files.delete("runs/a/")
    assert files.find_folders("runs/") == ["b"]


def test_a_file_can_be_written_again_after_its_folder_was_deleted(files: ArrowFiles) -> None:
    """A run that is cleared after its files were deleted can write them again."""
    files.write(NAME, table(1))
    files.delete("batches/one/")
    files.write(NAME, table(2))
    assert files.read(NAME).equals(table(2))


@contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """Act like a disk that fills up in the middle of a file: the kernel rejects further writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("exists", [True, False])
def test_a_failed_write_is_never_visible(tmp_path: Path, exists: bool) -> None:
    """A failed write leaves the previous file, if any, intact; the error is transient and names the setting."""
    files = ArrowFiles(f"file://{tmp_path}")
    if exists:
        files.write(NAME, table(1))
    with limit_file_size(10_000), pytest.raises(TransientError, match="MILLRACE_BATCH_PATH"):
        files.write(NAME, table(2, rows=100_000))
    if exists:
        assert files.read(NAME).equals(table(1))
    else:
        with pytest.raises(StagedBatchMissingError):
            files.read(NAME)
    files.write(NAME, table(3))
    assert files.read(NAME).equals(table(3))
    files.delete("batches/one/")
    assert list((tmp_path / "batches").iterdir()) == []


def test_readers_never_see_an_incomplete_file(tmp_path: Path) -> None:
    """While several attempts of one task write the same file, every read returns one complete table."""
    files = ArrowFiles(f"file://{tmp_path}")
    tables = [table(number, rows=20_000) for number in range(4)]
    files.write(NAME, tables[0])

    def write(number: int) -> None:
        for _ in range(25):
            files.write(NAME, tables[number])

    def read(_: int) -> bool:
        return all(_is_one_of(files.read(NAME), tables) for _ in range(25))

    with ThreadPoolExecutor(6) as pool:
        writes = pool.map(write, range(4))
        reads = pool.map(read, range(2))
        assert list(writes) == [None] * 4
        assert list(reads) == [True] * 2


def _is_one_of(actual: pa.Table, tables: Sequence[pa.Table]) -> bool:
    return any(actual.equals(expected) for expected in tables)


def test_only_the_owner_can_read_the_files(tmp_path: Path) -> None:
    """The files and the folders created for them are private, whatever the umask; an existing folder is unchanged."""
    tmp_path.chmod(0o755)
    before = os.umask(0)
    try:
        ArrowFiles(f"file://{tmp_path}/deep/er").write(NAME, table(1))
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_dir()}
    assert modes == {0o700}
    assert stat.S_IMODE((tmp_path / "deep" / "er" / NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_an_unusable_location_is_reported(tmp_path: Path) -> None:
    """If a file exists where the folder should be, the error is transient and names the setting of the location."""
    (tmp_path / "file").write_text("")
    files = ArrowFiles(f"file://{tmp_path}/file")
    with pytest.raises(TransientError, match="MILLRACE_BATCH_PATH"):
        files.write(NAME, table(1))
    with pytest.raises(TransientError, match="MILLRACE_BATCH_PATH"):
        files.read(NAME)


@pytest.mark.parametrize("encoded", [True, False])
def test_a_folder_may_have_any_name(tmp_path: Path, encoded: bool) -> None:
    """Blanks and letters outside ASCII may be percent-encoded, as in a URL, or not: it is the same folder."""
    folder = tmp_path / "José Ñ"
    ArrowFiles(folder.as_uri() if encoded else f"file://{folder}").write(NAME, table(1))
    assert (folder / NAME).exists()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
