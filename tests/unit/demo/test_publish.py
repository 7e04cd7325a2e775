"""``make publish``: the whole file is read before the first line is published."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from demo.publish import count_lines, main
from demo.source import FileLines
from include.errors import ConfigurationError

EVENT = json.dumps(
    {"user_id": "u", "message_id": "m", "kind": "view", "occurred_at": "2026-03-01T12:00:00Z", "item_id": "i"}
)


def write_file(folder: Path, text: str, name: str = "events.jsonl") -> FileLines:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return FileLines(path)


@pytest.mark.parametrize("name", ["events.jsonl", "events.jsonl.gz"])
def test_every_line_counts(tmp_path: Path, name: str) -> None:
    """Events, duplicates and invalid lines count, in plain and gzip files; blank lines at the end do not."""
    assert count_lines(write_file(tmp_path, f"not json\n{EVENT}\n{EVENT}\n{{}}\n\n\n", name)) == 4


@pytest.mark.parametrize(("text", "lines"), [("", 0), ("id,kind\n1,view\n", 2), ("[]\n{}\n1\n", 3)])
def test_a_file_without_events_is_rejected(tmp_path: Path, text: str, lines: int) -> None:
    """A file without events is most likely the wrong file; the error says where the format is described."""
    source = write_file(tmp_path, text)
    with pytest.raises(ConfigurationError, match=rf"has no events in {lines} lines: see docs/events\.md") as error:
        count_lines(source)
    assert str(source.path) in str(error.value)


def test_damage_after_the_first_event_is_found(tmp_path: Path) -> None:
    """A truncated gzip file is rejected as a whole, before half of it is in the topic."""
    source = write_file(tmp_path, f"{EVENT}\n" * 5_000, "events.jsonl.gz")
    source.path.write_bytes(source.path.read_bytes()[:-20])
    with pytest.raises(ConfigurationError, match="is damaged"):
        count_lines(source)


@pytest.mark.parametrize("setting", [("MILLRACE_PORT_KAFKA", "none"), ("MILLRACE_SHARDS", "0")])
def test_an_invalid_setting_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], setting: tuple[str, str]
) -> None:
    """The command exits with 1 and names the setting, without contacting a server."""
    monkeypatch.setenv(*setting)
    assert main([str(write_file(tmp_path, EVENT).path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {setting[0]} is '{setting[1]}'")


def test_a_file_without_events_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command exits with 1, whether or not Kafka is running."""
    assert main([str(write_file(tmp_path, "{}").path)]) == 1
    assert "has no events in 1 lines" in capsys.readouterr().err
