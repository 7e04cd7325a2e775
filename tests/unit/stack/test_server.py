"""A tool that prepares a server: run to its end, or ended with all that it started."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from stack import records
from stack.config import PROJECT, LocalConfig
from stack.credentials import load_or_create
from stack.launch import start_mark
from stack.server import CancelledError, Context, Launch, ServerError, python_environment


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(LocalConfig(home=tmp_path), load_or_create(tmp_path))


def shell(script: str, **environment: str) -> Launch:
    return Launch(("/bin/sh", "-c", script), Path("/"), environment)


def log(context: Context) -> str:
    return context.config.log("postgres").read_text(encoding="utf-8")


def test_a_tool_is_run_to_its_end(context: Context) -> None:
    """It reads what it is given, has its environment, and its words are added to the server's log."""
    context.run("postgres", shell('read line; echo "$OWN $line"; echo loud >&2', OWN="own"), stdin="given\n")
    context.run("postgres", shell("echo again"))
    assert log(context).splitlines() == ["own given", "loud", "again"]


def test_a_tool_that_reads_nothing_is_no_error(context: Context) -> None:
    """More input than a pipe holds, and nobody who takes it."""
    context.run("postgres", shell("exit 0"), stdin="x" * 1_000_000)


def test_a_tool_that_fails_is_named(context: Context) -> None:
    """The server, the exit code, the log and its last lines."""
    with pytest.raises(ServerError) as caught:
        context.run("postgres", shell("echo no room left; exit 7"))
    message = str(caught.value)
    assert message.startswith("preparing postgres failed with exit code 7. ")
    assert str(context.config.log("postgres")) in message
    assert message.endswith("    no room left")


def test_a_start_that_is_given_up_ends_its_tool(context: Context) -> None:
    """Also what the tool started in its turn; the error says that it was no failure of this server."""
    cancelled = threading.Event()
    failures: list[BaseException] = []

    def prepare() -> None:
        try:
            replace(context, cancelled=cancelled).run("postgres", shell("sleep 300 & echo $!; wait"))
        except CancelledError as exc:
            failures.append(exc)

    thread = threading.Thread(target=prepare, daemon=True)
    thread.start()
    while not context.config.log("postgres").exists() or not log(context).endswith("\n"):
        assert thread.is_alive()
        time.sleep(0.01)
    record = records.read(context.config.run, "postgres" + records.TOOL)
    assert record is not None
    child = replace(record, pid=int(log(context)), mark=str(start_mark(int(log(context)))))
    assert child.alive
    cancelled.set()
    thread.join(60)
    assert [str(failure) for failure in failures] == ["postgres"]
    assert not record.alive
    assert records.wait_gone(child, 60)


def test_a_tool_is_in_a_session_of_its_own(context: Context) -> None:
    """Ctrl-C in the terminal reaches us alone, and its record names what would be left if we were killed."""
    context.run("postgres", shell("echo $$"))
    record = records.read(context.config.run, "postgres" + records.TOOL)
    assert record is not None
    assert {record.pid, record.pgid, record.sid} == {int(log(context))}
    assert record.sid != os.getsid(0)


def test_our_own_packages_are_found(context: Context) -> None:
    """A process that imports them is told where; what was added for every process wins."""
    assert python_environment(context.config, MORE="1")["PYTHONPATH"] == str(PROJECT)
    changed = replace(context.config, extra_environment={"MORE": "2"})
    assert python_environment(changed, MORE="1")["MORE"] == "2"
