"""Publishing a file of one's own: it is read to its end before the first line is published."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from demo.publish_file import main, readable_lines
from demo.source import FileLines
from include.errors import ConfigurationError

EVENT = json.dumps(
    {"user_id": "u", "message_id": "m", "kind": "view", "occurred_at": "2026-03-01T12:00:00Z", "item_id": "i"}
)


def a_file(folder: Path, text: str, name: str = "events.jsonl") -> FileLines:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return FileLines(path)


@pytest.mark.parametrize("name", ["events.jsonl", "events.jsonl.gz"])
def test_every_line_counts(tmp_path: Path, name: str) -> None:
    """Events, repeats and what will be dead letters, plain or packed; blank lines at the end do not."""
    assert readable_lines(a_file(tmp_path, f"not json\n{EVENT}\n{EVENT}\n{{}}\n\n\n", name)) == 4


@pytest.mark.parametrize(("text", "lines"), [("", 0), ("id,kind\n1,view\n", 2), ("[]\n{}\n1\n", 3)])
def test_a_file_without_an_event_is_refused(tmp_path: Path, text: str, lines: int) -> None:
    """It is most likely another file: nothing is published, and the message says where events are described."""
    source = a_file(tmp_path, text)
    with pytest.raises(ConfigurationError, match=rf"has no event in {lines} lines: see README\.md") as caught:
        readable_lines(source)
    assert str(source.path) in str(caught.value)


def test_damage_behind_the_first_event_is_found(tmp_path: Path) -> None:
    """A packed file that was cut short is refused as a whole, before half of it is in the topic."""
    source = a_file(tmp_path, f"{EVENT}\n" * 5_000, "events.jsonl.gz")
    source.path.write_bytes(source.path.read_bytes()[:-20])
    with pytest.raises(ConfigurationError, match="is damaged"):
        readable_lines(source)


@pytest.mark.parametrize("setting", [("MILLRACE_PORT_KAFKA", "none"), ("MILLRACE_SHARDS", "0")])
def test_a_wrong_setting_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], setting: tuple[str, str]
) -> None:
    """Exit code 1 and the setting's name, and no server is asked."""
    monkeypatch.setenv(*setting)
    assert main([str(a_file(tmp_path, EVENT).path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {setting[0]} is '{setting[1]}'")


def test_a_file_without_an_event_ends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, whether or not a Kafka answers."""
    assert main([str(a_file(tmp_path, "{}").path)]) == 1
    assert "has no event in 1 lines" in capsys.readouterr().err
