"""maintain: count, and delete, what is no longer needed. May run twice, and be killed at any point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from include.errors import ConfigurationError
from include.pipeline.files import BATCHES_FOLDER
from include.ports import BatchStore, Retention

#: Called after each slice with the name of the kind and how much of it has been deleted.
type Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Kind:
    """One kind of data: how old it may get (days, 0 keeps it for ever), and what counts and deletes what is older.

    ``delete`` deletes one slice and returns its size; 0 means that nothing is left.
    """

    name: str
    what: str
    days: int
    count: Callable[[], int]
    delete: Callable[[], int]


def maintain(kinds: Sequence[Kind], *, apply: bool, progress: Progress) -> dict[str, int]:
    """How much of each kind is too old; with ``apply``, how much was deleted. Kinds that are kept are left out."""
    counts: dict[str, int] = {}
    for kind in kinds:
        if kind.days:
            counts[kind.name] = _delete(kind, progress) if apply else kind.count()
    return counts


def _delete(kind: Kind, progress: Progress) -> int:
    deleted = 0
    while found := kind.delete():
        deleted += found
        progress(kind.name, deleted)
    return deleted


def select_kinds(kinds: Sequence[Kind], names: Sequence[str]) -> list[Kind]:
    """Those with these names. Raises ``ConfigurationError`` for a name that does not exist."""
    known = {kind.name: kind for kind in kinds}
    wrong = [name for name in names if name not in known]
    if wrong:
        raise ConfigurationError(f"--only {','.join(wrong)}: use one or more of {','.join(known)}")
    return [known[name] for name in names]


def find_orphans(files: BatchStore, retention: Retention) -> list[str]:
    """The folders of batches that are not open: their run was closed by skip-lost, or died after its commit.

    The folders are listed first: a batch that is claimed later has none among them.
    """
    folders = files.find_folders(BATCHES_FOLDER)
    is_open = retention.find_open_batches()
    return [f"{BATCHES_FOLDER}{name}/" for name in folders if name not in is_open]


def delete_orphans(files: BatchStore, retention: Retention) -> int:
    """Delete these folders. Returns their number."""
    orphans = find_orphans(files, retention)
    for folder in orphans:
        files.delete(folder)
    return len(orphans)
