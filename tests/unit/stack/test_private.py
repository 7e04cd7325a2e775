"""Folders and files that only their owner can read."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from include.errors import ConfigurationError
from stack import private
from stack.config import LocalConfig
from stack.installation import config_on_free_ports, create_folders
from stack.servers import postgres

GROUP = 4711
ADVICE = "move it"


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """The shell's umask removes nothing."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def make_old_tree(root: Path) -> None:
    """What a version without private folders left: everyone can read all of it, and one file is a program."""
    (root / "deep" / "er").mkdir(parents=True)
    for path in (root / "file", root / "deep" / "er" / "file"):
        path.write_text("content")
        path.chmod(0o644)
    (root / "deep" / "program").touch(0o755)


def test_a_folder_is_created_private_with_its_missing_parents(tmp_path: Path) -> None:
    """Folders that exist keep their mode."""
    tmp_path.chmod(0o755)
    private.create_folder(tmp_path / "a" / "b" / "c")
    private.create_folder(tmp_path / "a" / "b")
    assert [mode(tmp_path / name) for name in ("a", "a/b", "a/b/c")] == [0o700] * 3
    assert mode(tmp_path) == 0o755


def test_the_umask_is_private_for_a_while(tmp_path: Path) -> None:
    """Files and folders that are created meanwhile are private; afterwards the umask is the same as before."""
    with private.private_umask():
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").touch()
    (tmp_path / "later").touch()
    assert [mode(tmp_path / name) for name in ("folder", "file", "later")] == [0o700, 0o600, 0o666]


def test_an_existing_tree_becomes_private(tmp_path: Path) -> None:
    """The group and others lose every permission; the owner can still run programs."""
    make_old_tree(tmp_path)
    private.restrict(tmp_path)
    assert {mode(path) for path in (tmp_path, *tmp_path.rglob("*")) if path.is_dir()} == {0o700}
    assert mode(tmp_path / "deep" / "program") == 0o700
    assert {mode(path) for path in tmp_path.rglob("file")} == {0o600}


def test_a_link_out_of_the_tree_is_not_followed(tmp_path: Path) -> None:
    """What a symbolic link points to keeps its mode."""
    make_old_tree(tmp_path / "outside")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "folder").symlink_to(tmp_path / "outside")
    (tmp_path / "tree" / "file").symlink_to(tmp_path / "outside" / "file")
    private.restrict(tmp_path / "tree")
    assert mode(tmp_path / "outside" / "file") == 0o644
    assert mode(tmp_path / "outside" / "deep") == 0o777


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_another_user_are_left_alone(tmp_path: Path) -> None:
    """Another user could replace them by links to other files while their mode is being changed."""
    make_old_tree(tmp_path)
    os.chown(tmp_path / "deep", GROUP, GROUP)
    private.restrict(tmp_path)
    assert mode(tmp_path / "deep") == 0o777
    assert mode(tmp_path / "deep" / "er") == 0o777


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the group of a folder to any other")
def test_a_group_may_pass_through(tmp_path: Path) -> None:
    """It can enter the folder but not list it, and it stays that way; no other group is granted anything."""
    for name in ("passable", "other"):
        (tmp_path / name).mkdir()
        private.allow_passage(tmp_path / name, GROUP if name == "passable" else GROUP + 1)
    assert mode(tmp_path / "passable") == 0o710
    assert (tmp_path / "passable").stat().st_gid == GROUP
    private.restrict(tmp_path, GROUP)
    assert (mode(tmp_path / "passable"), mode(tmp_path / "other")) == (0o710, 0o700)


def test_a_folder_of_another_user_is_rejected(tmp_path: Path) -> None:
    """In a world-writable place, a link or another user's folder could lead anywhere."""
    folder = private.create_owned_folder(tmp_path / "folder", 0o700, ADVICE)
    assert mode(folder) == 0o700
    assert private.create_owned_folder(folder, 0o711, ADVICE) == folder
    assert mode(folder) == 0o711
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(ConfigurationError, match=r"link belongs to another user: remove it, or move it"):
        private.create_owned_folder(tmp_path / "link", 0o700, ADVICE)


@pytest.fixture
def old_home() -> Iterator[LocalConfig]:
    """The home of a version whose folders everyone could enter, where every user can reach it."""
    with tempfile.TemporaryDirectory(prefix="millrace-folder-") as name:
        Path(name).chmod(0o711)
        config = config_on_free_ports(Path(name) / "home")
        for folder in (config.data("postgres"), config.data("kafka"), config.logs, config.run, config.home / "airflow"):
            make_old_tree(folder)
        config.home.chmod(0o711)
        yield config


def test_an_old_home_becomes_private(old_home: LocalConfig) -> None:
    """The next start closes every folder and file. Only PostgreSQL's group may still pass through to its data."""
    create_folders(old_home)
    passable = {old_home.home, old_home.home / "data", old_home.data("postgres")}
    if (group := postgres.service_group(old_home)) is not None:
        assert {(mode(path), path.stat().st_gid) for path in passable} == {(0o710, group)}
    else:
        assert {mode(path) for path in passable} == {0o700}
    open_paths = [path for path in old_home.home.rglob("*") if path not in passable and mode(path) & 0o077]
    assert open_paths == []


def test_new_folders_are_private(tmp_path: Path) -> None:
    """The home, its logs and its run folder are closed from the start; folders above it follow the user's umask."""
    config = config_on_free_ports(tmp_path / "above" / "home")
    create_folders(config)
    assert {mode(folder) for folder in (config.logs, config.run)} == {0o700}
    assert mode(config.home) & 0o067 == 0
    assert mode(config.home.parent) == 0o777
