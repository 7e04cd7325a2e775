"""The demo's command line, without servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from demo.cli import build_parser, parse_options, read_installation_seconds
from demo.run import Options
from include.errors import ConfigurationError
from stack.config import PROJECT


def parse(*arguments: str, **environment: str) -> Options:
    return parse_options(build_parser().parse_args(arguments), environment, 1_000.0)


def test_defaults() -> None:
    """By default the demo runs a small shop in its own folder and leaves the servers running."""
    options = parse()
    assert (options.shop.users, options.shop.events, options.file) == (2_000, 20_000, None)
    assert options.config.home == PROJECT / ".local" / "demo"
    assert options.report == PROJECT / ".local" / "reports" / "demo.json"
    assert not options.fresh
    assert not options.stop_after


def test_the_home_follows_the_installation(tmp_path: Path) -> None:
    """MILLRACE_HOME moves the demo's folder along with everything else, unless --home is given."""
    assert parse(MILLRACE_HOME=str(tmp_path)).config.home == tmp_path / "demo"
    assert parse("--home", str(tmp_path / "x"), MILLRACE_HOME=str(tmp_path)).config.home == tmp_path / "x"


def test_the_file_is_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is resolved against the working directory."""
    monkeypatch.chdir(tmp_path)
    assert parse("--events", "e.jsonl").file == tmp_path / "e.jsonl"


@pytest.mark.parametrize("sizes", [("--users", "0"), ("--users", "9", "--count", "8")])
def test_invalid_sizes_are_rejected(sizes: tuple[str, ...]) -> None:
    """A shop has at least one user and at least one event per user."""
    with pytest.raises(ConfigurationError, match="one event per user"):
        parse(*sizes)


def test_only_a_recent_installation_counts(tmp_path: Path) -> None:
    """The duration of an installation counts only for the run right after it."""
    installed = tmp_path / ".installed"
    assert read_installation_seconds(installed, 0) == 0
    installed.write_text("97.5\n")
    os.utime(installed, (1_000, 1_000))
    assert read_installation_seconds(installed, 1_002) == 97.5
    assert read_installation_seconds(installed, 2_000) == 0
    installed.write_text("")
    os.utime(installed, (1_000, 1_000))
    assert read_installation_seconds(installed, 1_002) == 0


@pytest.mark.parametrize("module", ["demo", "demo.publish"])
def test_a_missing_file_is_an_error(tmp_path: Path, module: str) -> None:
    """With a missing file, both commands exit with 1 and an error before any server is started."""
    flags = ["--events", "nowhere.jsonl", "--home", "home"] if module.endswith("demo") else ["nowhere.jsonl"]
    result = subprocess.run(
        [sys.executable, "-m", module, *flags],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: file not found")
    assert not (tmp_path / "home" / "data").exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    """A second demo in the same folder exits with an error and does not stop the servers of the first."""
    import fcntl

    from demo.manifest import LOCK_FILE

    with (tmp_path / LOCK_FILE).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = subprocess.run(
            [sys.executable, "-m", "demo", "--home", str(tmp_path)],
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert result.returncode == 1
    assert "another demo is running" in result.stderr


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_demo_can_be_resumed(tmp_path: Path, signum: int) -> None:
    """While it reads its input, or later: one sentence, the exit code 130, and no server is left."""
    events = tmp_path / "events.jsonl"
    os.mkfifo(events)
    line = [sys.executable, "-m", "demo", "--events", str(events), "--home", str(tmp_path / "home")]
    demo = subprocess.Popen(line, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # Opening a pipe for reading waits for a writer, and there is none.
    while not (tmp_path / "home" / "recount.sqlite").exists():
        assert demo.poll() is None
        time.sleep(0.05)
    while demo.poll() is None:
        demo.send_signal(signum)
        time.sleep(0.2)
    output, errors = demo.communicate()
    assert (demo.returncode, output, errors) == (130, "interrupted; run the same command again to resume\n", "")
    assert not (tmp_path / "home" / "run").exists()
