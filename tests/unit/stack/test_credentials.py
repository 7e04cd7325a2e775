"""The secrets of an installation: made once, kept, and for the owner's eyes alone."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
from dataclasses import asdict
from pathlib import Path

import pytest

from include.errors import ConfigurationError
from stack.credentials import FILE, load_or_create, write_private


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_made_once_and_kept(tmp_path: Path) -> None:
    """The second call gives what the first one made, and does not write the file again."""
    made = load_or_create(tmp_path)
    before = (tmp_path / FILE).stat()
    assert load_or_create(tmp_path) == made
    after = (tmp_path / FILE).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_every_secret_is_its_own(tmp_path: Path) -> None:
    """None is empty, none is used twice, and another home has others."""
    one = asdict(load_or_create(tmp_path / "one"))
    other = asdict(load_or_create(tmp_path / "other"))
    assert all(len(value) >= 32 for value in one.values())
    assert len({*one.values(), *other.values()}) == 2 * len(one)


def test_secrets_need_no_quoting(tmp_path: Path) -> None:
    """They stand in addresses and configuration files as they are; only Fernet's key has a form of its own."""
    secrets = asdict(load_or_create(tmp_path))
    key = secrets.pop("airflow_fernet_key")
    assert all(re.fullmatch("[0-9a-f]+", value) for value in secrets.values())
    assert len(base64.urlsafe_b64decode(key)) == 32


def test_only_the_owner_may_read_them(tmp_path: Path) -> None:
    """Whatever the umask of whoever started it."""
    before = os.umask(0)
    try:
        load_or_create(tmp_path)
    finally:
        os.umask(before)
    assert mode(tmp_path / FILE) == 0o600


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    """A log or a traceback that prints the object tells nothing."""
    secrets = load_or_create(tmp_path)
    shown = repr(secrets) + str(secrets)
    assert not [value for value in asdict(secrets).values() if value in shown]


def test_an_older_file_gets_what_it_lacks(tmp_path: Path) -> None:
    """What it has stays, what it lacks is made and kept too."""
    first = asdict(load_or_create(tmp_path))
    del first["redis"]
    (tmp_path / FILE).write_text(json.dumps(first))
    second = asdict(load_or_create(tmp_path))
    assert second.pop("redis")
    assert second == first
    assert mode(tmp_path / FILE) == 0o600
    assert load_or_create(tmp_path).redis == json.loads((tmp_path / FILE).read_text())["redis"]


@pytest.mark.parametrize("text", ["", '{"redis": "a', "[]"])
def test_a_damaged_file_is_named_and_left(tmp_path: Path, text: str) -> None:
    """New secrets would lock us out of the data that the old ones guard: the message names the file and the way out."""
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigurationError, match=rf"{re.escape(str(tmp_path / FILE))}.*stack reset"):
        load_or_create(tmp_path)
    assert (tmp_path / FILE).read_text() == text


def test_a_private_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """Who has the old one open goes on reading it; the new one is closed to others, and nothing else is left."""
    path = tmp_path / "folder" / "file"
    write_private(path, "the first text, a long one")
    path.chmod(0o644)
    with path.open() as opened:
        write_private(path, "ö")
        assert opened.read() == "the first text, a long one"
    assert path.read_text(encoding="utf-8") == "ö"
    assert mode(path) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path: Path) -> None:
    """A partial file of the same process number, readable by all, is not written into."""
    partial = tmp_path / f"file.{os.getpid()}.partial"
    partial.write_text("old")
    partial.chmod(0o666)
    write_private(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
    assert mode(tmp_path / "file") == 0o600
    assert not partial.exists()


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    """A text that cannot be written leaves what was there."""
    write_private(tmp_path / "file", "old")
    with pytest.raises(UnicodeEncodeError):
        write_private(tmp_path / "file", "\ud800")
    assert (tmp_path / "file").read_text() == "old"
