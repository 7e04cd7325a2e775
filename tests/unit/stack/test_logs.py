"""The servers' logs on the screen, and at the end of an error."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from include.errors import ConfigurationError
from stack.config import LocalConfig
from stack.logs import show
from stack.server import log_hint, tail

PATIENCE_S = 30


@pytest.fixture
def config(tmp_path: Path) -> LocalConfig:
    made = LocalConfig(home=tmp_path)
    made.logs.mkdir()
    return made


def write(config: LocalConfig, server: str, text: str) -> Path:
    file = config.log(server)
    file.write_text(text, encoding="utf-8")
    return file


def shown(config: LocalConfig, server: str | None = None, lines: int = 20) -> list[str]:
    said: list[str] = []
    show(config, server, lines, follow=False, say=said.append)
    return said


def followed(config: LocalConfig, server: str, change: Callable[[], object], news: int = 1) -> list[str]:
    """What is said of a change made after the last lines were shown, until there are so many new lines."""
    said: queue.Queue[str] = queue.Queue()

    def say(line: str) -> None:
        said.put(line)
        if said.qsize() == 2:
            change()
        if said.qsize() == 2 + news:
            raise KeyboardInterrupt

    def follow() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            show(config, server, 1, follow=True, say=say)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return list(said.queue)[2:]


def test_the_last_lines_of_one_log(config: LocalConfig) -> None:
    """As many as were asked for, below the name of the file; other logs are not shown."""
    file = write(config, "kafka", "".join(f"line {number}\n" for number in range(9)))
    write(config, "redis", "other\n")
    assert shown(config, "kafka", 2) == [f"==> {file} <==", "    line 7\n    line 8"]


def test_all_logs_without_a_name(config: LocalConfig) -> None:
    """One after another, in the order of their names."""
    files = [write(config, name, f"of {name}\n") for name in ("redis", "kafka")]
    assert shown(config) == [f"==> {files[1]} <==", "    of kafka", f"==> {files[0]} <==", "    of redis"]


def test_no_lines_are_none(config: LocalConfig) -> None:
    """Who asks for no old lines, to see the new ones alone, is shown none."""
    file = write(config, "kafka", "old\n")
    assert shown(config, "kafka", 0) == [f"==> {file} <=="]


def test_a_server_without_a_log(config: LocalConfig) -> None:
    """The message names those that there are; before the first start it says how to start."""
    with pytest.raises(ConfigurationError, match=r"none yet: start the servers with .* up"):
        shown(config, "kafka")
    with pytest.raises(ConfigurationError, match="none yet"):
        shown(config)
    write(config, "kafka", "")
    write(config, "redis", "")
    with pytest.raises(ConfigurationError, match=r"no log karfka in .*there are: kafka, redis$"):
        shown(config, "karfka")


def test_a_name_is_no_path(config: LocalConfig) -> None:
    """Files outside the folder of logs are not shown, whatever name is given."""
    (config.home / "secret.log").write_text("secret")
    write(config, "kafka", "")
    with pytest.raises(ConfigurationError, match="there is no log"):
        shown(config, "../secret")


def test_follow_says_what_is_written(config: LocalConfig) -> None:
    """A new line comes with the name of its server, once it is whole."""
    file = write(config, "kafka", "old\n")

    def change() -> None:
        with file.open("a", encoding="utf-8") as out:
            out.write("first\nsecond\nhal")

    assert followed(config, "kafka", change, 2) == ["kafka: first", "kafka: second"]


def test_follow_goes_on_after_a_rotation(config: LocalConfig) -> None:
    """The supervisor moves a full log away: the new one is read from its beginning."""
    file = write(config, "kafka", "a long old line\n" * 9)

    def change() -> None:
        file.rename(file.with_name("kafka.log.1"))
        write(config, "kafka", "new\n")

    assert followed(config, "kafka", change) == ["kafka: new"]


def test_the_end_of_a_log_is_for_a_person(tmp_path: Path) -> None:
    """Empty lines are left out, long ones are cut, and what is no text does not stop it."""
    log = tmp_path / "kafka.log"
    log.write_bytes(b"one\n\n  \n\xff two\n" + b"x" * 5_000 + b"\n")
    assert tail(log, 3).split("\n") == ["    one", "    \ufffd two", "    " + "x" * 300]


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    """Of a log of any size there are the last lines."""
    log = tmp_path / "kafka.log"
    log.write_text("".join(f"{number:09}\n" for number in range(50_000)))
    assert tail(log, 2) == "    000049998\n    000049999"


def test_a_log_without_lines_says_so(tmp_path: Path) -> None:
    """Nothing in it, and nothing there: an error that ends with a log is never without words."""
    log = tmp_path / "kafka.log"
    assert log_hint(log) == f"Its log is {log}; it ends:\n    (no log was written)"
    log.touch()
    assert log_hint(log) == f"Its log is {log}; it ends:\n    (the log is empty)"
