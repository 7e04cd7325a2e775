"""Tools that prepare a server: they run to completion, or are killed with everything they started."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from stack import records
from stack.config import PROJECT
from stack.installation import build_context, read_config
from stack.launch import process_fingerprint
from stack.server import CancelledError, Context, Launch, ServerError, python_environment


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return build_context(read_config({}, tmp_path))


def shell(script: str, **environment: str) -> Launch:
    return Launch(("/bin/sh", "-c", script), Path("/"), environment)


def log(context: Context) -> str:
    return context.config.log("postgres").read_text(encoding="utf-8")


def test_a_tool_runs_to_completion(context: Context) -> None:
    """It gets its input and its environment, and its output is appended to the server's log."""
    context.run("postgres", shell('read line; echo "$OWN $line"; echo loud >&2', OWN="own"), stdin="given\n")
    context.run("postgres", shell("echo again"))
    assert log(context).splitlines() == ["own given", "loud", "again"]


def test_a_tool_may_ignore_its_input(context: Context) -> None:
    """More input than a pipe can buffer is not an error if the tool exits without reading it."""
    context.run("postgres", shell("exit 0"), stdin="x" * 1_000_000)


def test_a_failed_tool_is_reported(context: Context) -> None:
    """The message includes the server, the exit code, the log file and its last lines."""
    with pytest.raises(ServerError) as error:
        context.run("postgres", shell("echo no room left; exit 7"))
    message = str(error.value)
    assert message.startswith("preparing postgres failed with exit code 7. ")
    assert str(context.config.log("postgres")) in message
    assert message.endswith("    no room left")


def test_a_cancelled_start_kills_its_tool(context: Context) -> None:
    """The children of the tool are killed too, and the error says that this server did not fail."""
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
    record = records.read_record(context.config.run, "postgres" + records.TOOL)
    assert record is not None
    child = replace(record, pid=int(log(context)), start_id=str(process_fingerprint(int(log(context)))))
    assert child.alive
    cancelled.set()
    thread.join(60)
    assert [str(failure) for failure in failures] == ["postgres"]
    assert not record.alive
    assert records.wait_until_gone(child, 60)


def test_a_tool_has_its_own_session(context: Context) -> None:
    """Ctrl-C does not reach the tool directly, and its record identifies what a killed start leaves behind."""
    context.run("postgres", shell("echo $$"))
    record = records.read_record(context.config.run, "postgres" + records.TOOL)
    assert record is not None
    assert {record.pid, record.pgid, record.sid} == {int(log(context))}
    assert record.sid != os.getsid(0)


def test_millrace_packages_can_be_imported(context: Context) -> None:
    """A Python server gets the project on its path, and the extra environment wins."""
    assert python_environment(context.config, MORE="1")["PYTHONPATH"] == str(PROJECT)
    changed = replace(context.config, extra_environment={"MORE": "2"})
    assert python_environment(changed, MORE="1")["MORE"] == "2"
