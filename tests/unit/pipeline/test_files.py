"""The names of the files between tasks."""

from __future__ import annotations

from hypothesis import given

from include.domain.batch import BatchRef
from include.pipeline.files import batch_folder, events_file, run_folder, vectors_file
from tests.unit.domain.test_batch import REFS


@given(REFS, REFS)
def test_no_two_batches_share_a_file(one: BatchRef, other: BatchRef) -> None:
    """Every file of a batch lies in its folder, and no folder is part of another one's path."""
    names = {events_file(one), vectors_file(one)}
    assert len(names) == 2
    assert all(name.startswith(batch_folder(one)) for name in names)
    if one != other:
        assert not any(name.startswith(batch_folder(other)) for name in names)


def test_runs_lie_apart_from_batches() -> None:
    """A precompute run that is named like a batch has another folder, and one run is not the beginning of another."""
    ref = BatchRef("events", 0, 0, 1)
    assert not run_folder(ref.batch_id).startswith(batch_folder(ref))
    assert not run_folder("run12").startswith(run_folder("run1"))
