"""The servers' logs, on request and at the end of an error message."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from include.errors import ConfigurationError
from stack.config import LocalConfig
from stack.logs import show_logs
from stack.server import log_hint, tail

PATIENCE_S = 30


@pytest.fixture
def config(tmp_path: Path) -> LocalConfig:
    config = LocalConfig(tmp_path, ports={}, heaps={})
    config.logs.mkdir()
    return config


def write(config: LocalConfig, server: str, text: str) -> Path:
    file = config.log(server)
    file.write_text(text, encoding="utf-8")
    return file


def read_logs(config: LocalConfig, server: str | None = None, lines: int = 20) -> list[str]:
    reported: list[str] = []
    show_logs(config, server, lines, follow=False, report=reported.append)
    return reported


def follow_logs(config: LocalConfig, server: str, change: Callable[[], object], new_lines: int = 1) -> list[str]:
    """The new lines that are reported after a change; stops after that many."""
    reported: queue.Queue[str] = queue.Queue()

    def report(line: str) -> None:
        reported.put(line)
        if reported.qsize() == 2:
            change()
        if reported.qsize() == 2 + new_lines:
            raise KeyboardInterrupt

    def follow() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            show_logs(config, server, 1, follow=True, report=report)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return list(reported.queue)[2:]


def test_the_last_lines_of_one_log(config: LocalConfig) -> None:
    """The requested number of lines follows the name of the file; other logs are not shown."""
    file = write(config, "kafka", "".join(f"line {number}\n" for number in range(9)))
    write(config, "redis", "other\n")
    assert read_logs(config, "kafka", 2) == [f"==> {file} <==", "    line 7\n    line 8"]


def test_all_logs_by_default(config: LocalConfig) -> None:
    """Without a name, all logs are shown in alphabetical order."""
    files = [write(config, name, f"of {name}\n") for name in ("redis", "kafka")]
    assert read_logs(config) == [f"==> {files[1]} <==", "    of kafka", f"==> {files[0]} <==", "    of redis"]


def test_zero_lines(config: LocalConfig) -> None:
    """With zero lines, only the name of the file is shown."""
    file = write(config, "kafka", "old\n")
    assert read_logs(config, "kafka", 0) == [f"==> {file} <=="]


def test_a_server_without_a_log(config: LocalConfig) -> None:
    """The error lists the existing logs; before the first start it says how to start the servers."""
    with pytest.raises(ConfigurationError, match=r"no logs in .* yet: start the servers with .* up"):
        read_logs(config, "kafka")
    with pytest.raises(ConfigurationError, match="yet: start the servers"):
        read_logs(config)
    write(config, "kafka", "")
    write(config, "redis", "")
    with pytest.raises(ConfigurationError, match=r"no log for 'karfka' in .*; choose from: kafka, redis$"):
        read_logs(config, "karfka")


def test_a_name_is_not_a_path(config: LocalConfig) -> None:
    """Files outside the log folder are never shown."""
    (config.home / "secret.log").write_text("secret")
    write(config, "kafka", "")
    with pytest.raises(ConfigurationError, match="no log for"):
        read_logs(config, "../secret")


def test_follow_shows_new_lines(config: LocalConfig) -> None:
    """A complete new line is shown with the name of its server."""
    file = write(config, "kafka", "old\n")

    def change() -> None:
        with file.open("a", encoding="utf-8") as out:
            out.write("first\nsecond\nhal")

    assert follow_logs(config, "kafka", change, 2) == ["kafka: first", "kafka: second"]


def test_follow_continues_after_a_rotation(config: LocalConfig) -> None:
    """When the supervisor rotates a log, the new file is read from its beginning."""
    file = write(config, "kafka", "a long old line\n" * 9)

    def change() -> None:
        file.rename(file.with_name("kafka.log.1"))
        write(config, "kafka", "new\n")

    assert follow_logs(config, "kafka", change) == ["kafka: new"]


def test_the_tail_of_a_log_is_readable(tmp_path: Path) -> None:
    """Empty lines are skipped, long lines are truncated, and invalid bytes are replaced."""
    log = tmp_path / "kafka.log"
    log.write_bytes(b"one\n\n  \n\xff two\n" + b"x" * 5_000 + b"\n")
    assert tail(log, 3).split("\n") == ["    one", "    \ufffd two", "    " + "x" * 300]


def test_the_tail_of_a_long_log(tmp_path: Path) -> None:
    """The last lines are found in a log of any size."""
    log = tmp_path / "kafka.log"
    log.write_text("".join(f"{number:09}\n" for number in range(50_000)))
    assert tail(log, 2) == "    000049998\n    000049999"


def test_a_log_without_lines(tmp_path: Path) -> None:
    """An error message mentions an empty or missing log instead of ending with nothing."""
    log = tmp_path / "kafka.log"
    assert log_hint(log) == f"Last lines of {log}:\n    (no log was written)"
    log.touch()
    assert log_hint(log) == f"Last lines of {log}:\n    (the log is empty)"
