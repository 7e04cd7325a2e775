"""The files between tasks: on a disk, and on a file system of objects."""

from __future__ import annotations

import resource
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
    """An empty place; ``memory`` shows an object only when it is whole, as an object store does."""
    return ArrowFiles(f"file://{tmp_path}/deep/er" if request.param == "file" else f"memory://{uuid.uuid4().hex}")


def table(number: int, rows: int = 3) -> pa.Table:
    """Rows that all hold ``number``."""
    return pa.table({"number": [number] * rows})


def test_a_table_comes_out_as_it_went_in(files: ArrowFiles) -> None:
    """Schema and rows, empty tables and odd texts too; folders are made as they are needed."""
    odd = events_table([(record(7), event(text='a "quoted"\n\U0001f9e1', value=-0.0, occurred_at=-62135596800000))])
    for name, given in [("a.arrow", odd), ("b/c/d.arrow", EVENT_SCHEMA.empty_table()), ("b/e.arrow", table(1))]:
        files.write(name, given)
        found = files.read(name)
        assert found.equals(given)
        assert found.schema.equals(given.schema)


def test_the_last_write_stands(files: ArrowFiles) -> None:
    """A task that runs again writes its file again."""
    for number, rows in [(1, 1000), (2, 3)]:
        files.write(NAME, table(number, rows))
    assert files.read(NAME).equals(table(2, 3))


def test_a_missing_file_says_where_to_restart(files: ArrowFiles) -> None:
    """The error names the file and the task to clear, whether or not its folder exists."""
    files.write(NAME, table(1))
    for name in ("batches/one/vectors.arrow", "batches/two/events.arrow"):
        with pytest.raises(StagedBatchMissingError, match=rf"{name} does not exist.*Clear the run from its first task"):
            files.read(name)


def test_a_folder_is_deleted_alone(files: ArrowFiles) -> None:
    """Everything in it is gone, what only begins like it stays; to delete it again, or what never was, is no error."""
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


def test_a_file_can_be_written_again_after_its_folder_went(files: ArrowFiles) -> None:
    """A cleared run begins from nothing."""
    files.write(NAME, table(1))
    files.delete("batches/one/")
    files.write(NAME, table(2))
    assert files.read(NAME).equals(table(2))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk that is full in the middle of a file, as the kernel says it: writing on fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("there", [True, False])
def test_a_write_that_fails_half_way_is_not_seen(tmp_path: Path, there: bool) -> None:
    """What stood stays whole, or nothing is there; the error may pass and names the setting."""
    files = ArrowFiles(f"file://{tmp_path}")
    if there:
        files.write(NAME, table(1))
    with files_of_at_most(10_000), pytest.raises(TransientError, match="MILLRACE_BATCH_PATH"):
        files.write(NAME, table(2, rows=100_000))
    if there:
        assert files.read(NAME).equals(table(1))
    else:
        with pytest.raises(StagedBatchMissingError):
            files.read(NAME)
    files.write(NAME, table(3))
    assert files.read(NAME).equals(table(3))
    files.delete("batches/one/")
    assert list((tmp_path / "batches").iterdir()) == []


def test_writers_and_readers_do_not_meet_halfway(tmp_path: Path) -> None:
    """Tries of one task at the same time, and readers beside them: every reading is one whole table."""
    files = ArrowFiles(f"file://{tmp_path}")
    tables = [table(number, rows=20_000) for number in range(4)]
    files.write(NAME, tables[0])

    def write(number: int) -> None:
        for _ in range(25):
            files.write(NAME, tables[number])

    def read(_: int) -> bool:
        return all(_is_one_of(files.read(NAME), tables) for _ in range(25))

    with ThreadPoolExecutor(6) as pool:
        writing = pool.map(write, range(4))
        reading = pool.map(read, range(2))
        assert list(writing) == [None] * 4
        assert list(reading) == [True] * 2


def _is_one_of(found: pa.Table, tables: Sequence[pa.Table]) -> bool:
    return any(found.equals(whole) for whole in tables)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file where the folder should be: the error may pass, and names the setting that says where."""
    (tmp_path / "taken").write_text("")
    files = ArrowFiles(f"file://{tmp_path}/taken")
    with pytest.raises(TransientError, match="MILLRACE_BATCH_PATH"):
        files.write(NAME, table(1))
    with pytest.raises(TransientError, match="MILLRACE_BATCH_PATH"):
        files.read(NAME)
