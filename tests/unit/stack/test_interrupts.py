"""Ctrl-C while a command starts, waits or only looks: one sentence and the exit code 130, never a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stack.config import PROJECT, LocalConfig
from stack.installation import config_on_free_ports
from stack.interrupts import defer_interrupts
from stack.lock import hold_lock

NOTHING = "interrupted: nothing was started or stopped\n"

#: ``python -m PACKAGE`` that gets SIGINT when it begins to import a module.
INTERRUPTED_IMPORT = """
import os, runpy, signal, sys
package, module = sys.argv[1:3]
sys.argv[1:] = sys.argv[3:]

def interrupt(event, arguments):
    if event == "import" and arguments[0] == module:
        os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(interrupt)
runpy.run_module(package, run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def config(tmp_path: Path) -> LocalConfig:
    """A home that does not exist yet, on free ports."""
    return config_on_free_ports(tmp_path / "home")


def start(config: LocalConfig, *line: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *line],
        cwd=PROJECT,
        env={**os.environ, "MILLRACE_HOME": str(config.home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupt_after(process: subprocess.Popen[str], text: str) -> tuple[str, str]:
    """Send SIGINT once the process has printed this. Returns what it printed to stdout and stderr in all."""
    assert process.stdout is not None
    begin = ""
    while text not in begin:
        begin += (character := process.stdout.read(1))
        assert character, begin
    # Its input stays open: communicate() would close it, and a question would count as answered.
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    rest, errors = process.communicate()
    return begin + rest, errors


@pytest.mark.parametrize(
    ("package", "module"),
    [
        ("stack", "stack.cli"),
        ("stack", "xmlrpc.client"),
        ("demo", "demo.cli"),
        ("demo", "stack.stack"),
    ],
)
def test_interrupted_while_it_imports(config: LocalConfig, package: str, module: str) -> None:
    """Even before the command line is read, there is one sentence and no traceback."""
    process = start(config, "-c", INTERRUPTED_IMPORT, package, module, *(["up"] if package == "stack" else []))
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (130, "", NOTHING)
    assert not config.home.exists()


def test_interrupted_at_the_question(config: LocalConfig) -> None:
    """Ctrl-C is not an answer to the question of reset: the data stays."""
    config.data("kafka").mkdir(parents=True)
    process = start(config, "-m", "stack", "reset")
    output, errors = interrupt_after(process, "[y/N] ")
    assert (process.returncode, errors) == (130, NOTHING)
    assert "stopping" not in output
    assert config.data("kafka").exists()


@pytest.mark.parametrize("arguments", [("down",), ("reset", "--yes")])
def test_interrupted_while_it_waits(config: LocalConfig, arguments: tuple[str, ...]) -> None:
    """While another command has the lock, Ctrl-C ends down and reset before they have changed anything."""
    config.data("kafka").mkdir(parents=True)
    with hold_lock(config.home / "lock", "down", print, threading.Event()):
        process = start(config, "-m", "stack", *arguments)
        output, errors = interrupt_after(process, "waiting for ")
    assert (process.returncode, errors) == (130, NOTHING)
    assert "stopping" not in output
    assert config.data("kafka").exists()


def test_up_is_interrupted_while_it_waits(config: LocalConfig) -> None:
    """While another command has the lock, Ctrl-C ends up too, and the other one is not affected."""
    config.home.mkdir()
    with hold_lock(config.home / "lock", "down", print, threading.Event()):
        process = start(config, "-m", "stack", "up", "--only", "redis")
        _, errors = interrupt_after(process, "waiting for ")
    assert process.returncode == 130
    assert errors == "interrupted: everything that this command started has been stopped\n"


def test_interrupted_while_it_follows_the_logs(config: LocalConfig) -> None:
    """Ctrl-C is the usual end of following."""
    config.logs.mkdir(parents=True)
    config.log("kafka").write_text("hello\n")
    process = start(config, "-u", "-m", "stack", "logs", "-f")
    output, errors = interrupt_after(process, "hello\n")
    assert (process.returncode, errors) == (130, NOTHING)
    assert output.endswith("hello\n")


def test_an_output_that_takes_nothing(config: LocalConfig) -> None:
    """A full disk behind the output, or a reader that has gone, is no reason to stop halfway."""
    with Path("/dev/full").open("w", encoding="ascii") as full:
        line = [sys.executable, "-m", "stack", "--home", str(config.home), "down"]
        done = subprocess.run(line, cwd=PROJECT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_deferred_interrupt_ends_the_block() -> None:
    """Inside, a signal only sets the event; afterwards it interrupts, and the handlers are the previous ones."""
    interrupted = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    reached = False
    with pytest.raises(KeyboardInterrupt), defer_interrupts(interrupted):  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupted.wait(10)
        reached = True
    assert reached
    assert signal.getsignal(signal.SIGINT) is before
