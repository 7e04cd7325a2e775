"""run.json, the record of the current run in the demo's folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from demo.manifest import FILE, LOCK_FILE, RECOUNT_FILE, Manifest, StageTimes, State, load, save
from include.errors import ConfigurationError

RUN = Manifest("a shop", 4, "abc", 1_700_000_000_000, 1_700_000_000.5)


def test_round_trip(tmp_path: Path) -> None:
    """The manifest that was saved last is loaded, and only its owner can read the file."""
    home = tmp_path / "demo"
    save(home, RUN)
    later = RUN.update(state=State.WAITING).record_times(first_publish=3.0)
    save(home, later)
    assert load(home) == later
    assert (home / FILE).stat().st_mode & 0o077 == 0


def test_the_file_format_is_stable(tmp_path: Path) -> None:
    """A manifest written by an earlier version can be resumed, and stage times are saved under the key "marks"."""
    content = {"input": "a shop", "shards": 4, "fingerprint": "abc", "published_at": 7, "started_at": 1.5,
               "state": "publishing", "marks": {"first_publish": 3.0}}  # fmt: skip
    (tmp_path / FILE).write_text(json.dumps(content))
    manifest = load(tmp_path)
    times = StageTimes(first_publish=3.0)
    assert manifest == Manifest("a shop", 4, "abc", 7, 1.5, state=State.PUBLISHING, stage_times=times)
    save(tmp_path, manifest)
    assert json.loads((tmp_path / FILE).read_text())["marks"]["first_publish"] == 3.0


def test_a_new_or_empty_folder_has_no_manifest(tmp_path: Path) -> None:
    """There is nothing to resume in a missing or empty folder, nor after a kill before the first manifest."""
    assert load(tmp_path / "new") is None
    assert load(tmp_path) is None
    (tmp_path / LOCK_FILE).touch()
    (tmp_path / RECOUNT_FILE).touch()
    assert load(tmp_path) is None


def test_a_folder_with_other_content_is_rejected(tmp_path: Path) -> None:
    """The demo does not use a folder that it did not create, because it would delete the content."""
    (tmp_path / "data").mkdir()
    with pytest.raises(ConfigurationError, match="was not created by the demo"):
        load(tmp_path)


def test_a_corrupt_manifest_is_an_error(tmp_path: Path) -> None:
    """A manifest that cannot be parsed is an error, not a new run."""
    (tmp_path / FILE).write_text("{")
    with pytest.raises(ConfigurationError, match="cannot read"):
        load(tmp_path)


def test_stage_times_do_not_change() -> None:
    """The time of a completed stage stays the same when the run is resumed."""
    manifest = RUN.record_times(ingested=5.0).record_times(ingested=9.0, aggregated=10.0)
    assert (manifest.stage_times.ingested, manifest.stage_times.aggregated) == (5.0, 10.0)


@pytest.mark.parametrize("state", list(State))
def test_which_runs_are_unfinished(state: State) -> None:
    """A run is unfinished if it has published something and is not over."""
    assert RUN.update(state=state).unfinished == (state in (State.PUBLISHING, State.WAITING))
