"""Which processes are ours: what ``launch`` writes down, and what is made of it later."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stack import launch, records
from stack.config import LocalConfig
from stack.server import Launch, launcher, write_spec

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc")

#: Two processes that wait: one in the group of its parent, one in a group of its own.
FAMILY = """
import subprocess, sys
same = subprocess.Popen(["sleep", "300"])
apart = subprocess.Popen(["sleep", "300"], process_group=0)
print(same.pid, apart.pid, flush=True)
same.wait()
"""

type Start = Callable[..., tuple[int, list[int]]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    records.folder(tmp_path).mkdir()
    return tmp_path


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a command in a session of its own; its number, and the numbers that its first line says."""
    made: list[subprocess.Popen[str]] = []

    def started(*argv: str) -> tuple[int, list[int]]:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)
        made.append(process)
        assert process.stdout is not None
        return process.pid, [int(word) for word in process.stdout.readline().split()]

    yield started
    for process in made:
        # Not yet waited for, so its number is still the number of its session.
        for pid in launch.session_members(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def write(run: Path, name: str, **changes: object) -> records.Record:
    """A record of this process, with something changed."""
    launch.write_record(records.path(run, name), name)
    content = json.loads(records.path(run, name).read_text())
    records.path(run, name).write_text(json.dumps({**content, **changes}))
    record = records.read(run, name)
    assert record is not None
    return record


def test_a_record_of_a_running_process_is_alive(run: Path) -> None:
    """What launch wrote is read back with the numbers of its process, whole, with no remains beside it."""
    launch.write_record(records.path(run, "kafka"), "kafka")
    record = records.read(run, "kafka")
    assert record is not None
    assert (record.name, record.pid, record.pgid, record.sid) == ("kafka", os.getpid(), os.getpgid(0), os.getsid(0))
    assert record.alive
    assert os.getpid() in record.members()
    assert list(records.folder(run).iterdir()) == [records.path(run, "kafka")]


def test_a_process_with_a_used_number_is_a_stranger(run: Path, start: Start) -> None:
    """Another start time means another process: it is not alive, has no members, gets no signal, is not left over."""
    pid, _ = start("sh", "-c", "echo; exec sleep 300")
    record = write(run, "kafka", pid=pid, pgid=pid, sid=pid, mark="boot/1")
    assert not record.alive
    assert record.members() == []
    assert records.leftovers(run) == set()
    records.signal_process(record, signal.SIGKILL)
    assert launch.start_mark(pid) is not None
    assert records.wait_gone(record, 0)


def test_a_mark_of_an_earlier_boot_is_another(run: Path) -> None:
    """Numbers and start times come again after a restart of the machine; its boot does not."""
    mark = launch.start_mark(os.getpid())
    assert mark is not None
    boot, ticks = mark.rsplit("/", 1)
    assert write(run, "kafka", mark=mark).alive
    assert not write(run, "kafka", mark=f"{boot[::-1]}/{ticks}").alive


def test_an_ended_process_is_not_alive() -> None:
    """Also while nobody has asked for its exit status yet."""
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert launch.start_mark(process.pid) is None
    process.wait()
    assert launch.start_mark(process.pid) is None


@pytest.mark.parametrize("keep", [0, 1, 40, -1])
def test_half_a_record_is_none(run: Path, keep: int) -> None:
    """A disk that was full leaves such files; they are passed over, and the others are read."""
    write(run, "whole")
    text = records.path(run, "whole").read_text()
    records.path(run, "half").write_text(text[:keep])
    assert records.read(run, "half") is None
    assert [record.name for record in records.read_all(run)] == ["whole"]


@pytest.mark.parametrize("content", ["[]", "null", '"kafka"', '{"name": "kafka"}', '{"pid": "many"}', "\x00"])
def test_another_content_is_none(run: Path, content: str) -> None:
    """What is no record names no process."""
    records.path(run, "odd").write_text(content)
    assert records.read(run, "odd") is None


def test_no_record_is_none(tmp_path: Path) -> None:
    """A server that was never started, and a home where nothing ever was."""
    assert records.read(tmp_path / "none", "kafka") is None
    assert records.read_all(tmp_path / "none") == []
    assert records.leftovers(tmp_path / "none") == set()


def test_forget_removes_what_was_begun_too(run: Path) -> None:
    """Records and unfinished ones, so that the next start begins with none."""
    write(run, "kafka")
    (records.folder(run) / "kafka.json.17.partial").write_text("{")
    records.forget(run)
    assert list(records.folder(run).iterdir()) == []


def test_leftovers_are_a_session_of_ours_and_no_stranger(run: Path, start: Start) -> None:
    """A server started by launch.py is found with its children, in whatever group; who has no record is not."""
    family = Launch((sys.executable, "-I", "-S", "-c", FAMILY), run)
    config = LocalConfig(home=run)
    pid, children = start(*launcher(write_spec(config, "kafka", family)))
    start("sh", "-c", "echo; exec sleep 300")
    assert records.leftovers(config.run) == {pid, *children}
    record = records.read(config.run, "kafka")
    assert record is not None
    assert set(record.members()) == {pid, children[0]}


def test_a_session_outlives_the_one_that_began_it(run: Path, start: Start) -> None:
    """A supervisor that was killed leaves servers whose session is still the recorded one: all of it is ours."""
    pid, (same, apart) = start(sys.executable, "-I", "-S", "-c", FAMILY)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    write(run, "kafka", pid=same, pgid=pid, sid=pid, mark=launch.start_mark(same))
    assert records.leftovers(run) == {same, apart}


def test_a_record_of_a_session_that_is_not_its_own_names_its_process_alone(run: Path, start: Start) -> None:
    """A record whose session belongs to somebody else does not make that session ours."""
    pid, _ = start(sys.executable, "-I", "-S", "-c", FAMILY)
    stranger, _ = start("sh", "-c", "echo; exec sleep 300")
    write(run, "kafka", pid=pid, pgid=pid, sid=stranger, mark=launch.start_mark(pid))
    assert records.leftovers(run) == {pid}


def test_tools_are_ended_and_servers_stay(run: Path, start: Start) -> None:
    """What prepared a server for a start that was killed is done again; a server that runs is left."""
    tool, _ = start("sh", "-c", "echo; exec sleep 300")
    server, _ = start("sh", "-c", "echo; exec sleep 300")
    for name, pid in (("postgres" + records.TOOL, tool), ("postgres", server)):
        write(run, name, pid=pid, pgid=pid, sid=pid, mark=launch.start_mark(pid))
    records.end_tools(run)
    assert launch.start_mark(tool) is None
    assert launch.start_mark(server) is not None


def test_signals_reach_the_recorded_process(run: Path, start: Start) -> None:
    """It gets the signal that was sent, and its end is seen."""
    pid, _ = start("sh", "-c", "echo; exec sleep 300")
    record = write(run, "kafka", pid=pid, pgid=pid, sid=pid, mark=launch.start_mark(pid))
    records.signal_process(record, signal.SIGTERM)
    assert records.wait_gone(record, 30)
    records.signal_process(record, signal.SIGTERM)


def test_a_name_may_look_like_anything(start: Start) -> None:
    """A process that calls itself ``) Z 1 1`` is told by its session and its start all the same."""
    code = "import time; open('/proc/self/comm', 'w').write(') Z 1 1 ('); print(flush=True); time.sleep(300)"
    pid, _ = start(sys.executable, "-I", "-S", "-c", code)
    assert launch.start_mark(pid) is not None
    assert launch.session_members(pid) == {pid: os.getpid()}


def test_orphans_are_what_no_longer_descends_from_the_supervisor() -> None:
    """Children and theirs stay; without the supervisor itself nothing can be told, and nothing is ended."""
    members = {10: 1, 11: 10, 12: 11, 13: 1, 14: 13}
    assert sorted(launch._orphans(members, 10)) == [13, 14]
    assert launch._orphans(members, 99) == []


def test_launch_becomes_the_server(run: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same process, in its folder, with its environment alone, after its record was written."""
    config = LocalConfig(home=run)
    monkeypatch.setenv("STRANGE", "1")
    script = 'test "$PWD" = / && test "$ODD" = "a b" && test -z "$STRANGE" && echo $$; exec sleep 300'
    spec = write_spec(config, "kafka", Launch(("/bin/sh", "-c", script), Path("/"), {"ODD": "a b"}))
    assert spec.stat().st_mode & 0o077 == 0, "a spec carries secrets"
    pid, said = start(*launcher(spec))
    record = records.read(config.run, "kafka")
    assert record is not None
    assert said == [pid] == [record.pid]
    assert record.alive
