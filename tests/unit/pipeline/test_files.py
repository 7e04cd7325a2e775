"""The names of the files that tasks exchange."""

from __future__ import annotations

from hypothesis import given

from include.domain.batch import BatchRef
from include.pipeline.files import batch_folder, events_file, run_folder, vectors_file
from tests.unit.domain.test_batch import REFS


@given(REFS, REFS)
def test_no_two_batches_share_a_file(one: BatchRef, other: BatchRef) -> None:
    """Every file of a batch is in the folder of that batch, and in no other batch's folder."""
    names = {events_file(one), vectors_file(one)}
    assert len(names) == 2
    assert all(name.startswith(batch_folder(one)) for name in names)
    if one != other:
        assert not any(name.startswith(batch_folder(other)) for name in names)


def test_runs_and_batches_have_separate_folders() -> None:
    """A precompute run named like a batch has a different folder, and no run's folder is a prefix of another's."""
    ref = BatchRef("events", 0, 0, 1)
    assert not run_folder(ref.batch_id).startswith(batch_folder(ref))
    assert not run_folder("run12").startswith(run_folder("run1"))
