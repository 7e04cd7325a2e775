"""The secrets of an installation: generated once, stored, and readable only by their owner."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
from pathlib import Path

import pytest

from include.errors import ConfigurationError
from stack.credentials import FILE, Secrets, load_or_create, random_token, write_private
from stack.servers import SERVERS

FACTORIES = {name: factory for server in SERVERS for name, factory in server.secrets.items()}


def load(home: Path) -> Secrets:
    return load_or_create(home, FACTORIES)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_generated_once(tmp_path: Path) -> None:
    """A second call returns the same secrets and does not write the file again."""
    secrets = load(tmp_path)
    before = (tmp_path / FILE).stat()
    assert load(tmp_path) == secrets
    after = (tmp_path / FILE).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_every_secret_is_different(tmp_path: Path) -> None:
    """No secret is empty or used twice, and another home has other secrets."""
    one, other = (load(tmp_path / name).values for name in ("one", "other"))
    assert all(len(value) >= 32 for value in one.values())
    assert len({*one.values(), *other.values()}) == 2 * len(one)


def test_secrets_need_no_quoting(tmp_path: Path) -> None:
    """They can be used as they are in URLs and configuration files; only Fernet keys have a format of their own."""
    secrets = dict(load(tmp_path).values)
    key = secrets.pop("airflow_fernet_key")
    assert all(re.fullmatch("[0-9a-f]+", value) for value in secrets.values())
    assert len(base64.urlsafe_b64decode(key)) == 32


def test_only_the_owner_can_read_the_file(tmp_path: Path) -> None:
    """The mode of the file does not depend on the umask."""
    before = os.umask(0)
    try:
        load(tmp_path)
    finally:
        os.umask(before)
    assert mode(tmp_path / FILE) == 0o600


def test_secrets_are_not_printed(tmp_path: Path) -> None:
    """A log or a traceback that shows the object shows no value."""
    secrets = load(tmp_path)
    shown = repr(secrets) + str(secrets)
    assert not [value for value in secrets.values.values() if value in shown]


def test_missing_secrets_are_added(tmp_path: Path) -> None:
    """The file of an older version keeps its secrets, including unknown ones, and gets those it lacks."""
    first = {**load(tmp_path).values, "former_server": "old"}
    del first["redis"]
    (tmp_path / FILE).write_text(json.dumps(first))
    second = dict(load(tmp_path).values)
    assert second.pop("redis") == json.loads((tmp_path / FILE).read_text())["redis"]
    assert second == first
    assert mode(tmp_path / FILE) == 0o600
    assert load(tmp_path).values.keys() == {*first, "redis"}


def test_a_new_server_gets_its_secret(tmp_path: Path) -> None:
    """Any name can be declared; the file of earlier secrets stays readable."""
    before = load(tmp_path)
    after = load_or_create(tmp_path, {**FACTORIES, "new": random_token})
    assert len(after["new"]) == 32
    assert after["redis"] == before["redis"]


@pytest.mark.parametrize("text", ["", '{"redis": "a', "[]"])
def test_a_damaged_file_is_reported_and_left_alone(tmp_path: Path, text: str) -> None:
    """New secrets would lock the user out of existing data, so the error names the file and what to do."""
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigurationError, match=rf"{re.escape(str(tmp_path / FILE))}.*stack reset"):
        load(tmp_path)
    assert (tmp_path / FILE).read_text() == text


def test_a_private_file_is_replaced_atomically(tmp_path: Path) -> None:
    """Open readers continue with the old content; the new file is private, and nothing else is left."""
    path = tmp_path / "folder" / "file"
    write_private(path, "the first text, a long one")
    path.chmod(0o644)
    with path.open() as opened:
        write_private(path, "ö")
        assert opened.read() == "the first text, a long one"
    assert path.read_text(encoding="utf-8") == "ö"
    assert mode(path) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_partial_file_of_a_killed_process_does_not_matter(tmp_path: Path) -> None:
    """A world-readable partial file of a process with the same id is replaced, not written to."""
    partial = tmp_path / f"file.{os.getpid()}.partial"
    partial.write_text("old")
    partial.chmod(0o666)
    write_private(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
    assert mode(tmp_path / "file") == 0o600
    assert not partial.exists()


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    """A text that cannot be encoded leaves the file as it was."""
    write_private(tmp_path / "file", "old")
    with pytest.raises(UnicodeEncodeError):
        write_private(tmp_path / "file", "\ud800")
    assert (tmp_path / "file").read_text() == "old"
