"""run.json: what is under way in the demo's home."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from demo.manifest import FILE, LOCK_FILE, RECOUNT_FILE, Manifest, State, load, save
from include.errors import ConfigurationError

RUN = Manifest("a shop", 4, "abc", 1_700_000_000_000, 1_700_000_000.5)


def test_round_trip(tmp_path: Path) -> None:
    """What was saved last is loaded, and only its owner can read it."""
    home = tmp_path / "demo"
    save(home, RUN)
    later = replace(RUN, state=State.WAITING).marked(first_publish=3.0)
    save(home, later)
    assert load(home) == later
    assert (home / FILE).stat().st_mode & 0o077 == 0


def test_a_new_or_empty_home(tmp_path: Path) -> None:
    """There is nothing to go on with, nor after a kill before the first manifest."""
    assert load(tmp_path / "new") is None
    assert load(tmp_path) is None
    (tmp_path / LOCK_FILE).touch()
    (tmp_path / RECOUNT_FILE).touch()
    assert load(tmp_path) is None


def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    """A folder that the demo did not make is refused: the demo deletes what is in its home."""
    (tmp_path / "data").mkdir()
    with pytest.raises(ConfigurationError, match="was not made by the demo"):
        load(tmp_path)


def test_a_broken_manifest(tmp_path: Path) -> None:
    """What cannot be read is not guessed at."""
    (tmp_path / FILE).write_text("{")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(tmp_path)


def test_first_marks_stay() -> None:
    """A stage that was seen to end keeps its time when the run goes on after a kill."""
    assert RUN.marked(ingested=5.0).marked(ingested=9.0, aggregated=10.0).marks.ingested == 5.0


@pytest.mark.parametrize("state", list(State))
def test_what_can_be_gone_on_with(state: State) -> None:
    """Only a run that has published something and is not over."""
    assert replace(RUN, state=state).unfinished == (state in (State.PUBLISHING, State.WAITING))
