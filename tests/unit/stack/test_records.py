"""Process records: what ``launch`` writes, and how processes are recognised later."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from stack import launch, records
from stack.config import LocalConfig
from stack.server import Launch, launch_command, write_spec

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fingerprints rely on Linux's start time since boot")

#: A process with two children: one in its own process group, one in another.
FAMILY = """
import subprocess, sys
same = subprocess.Popen(["sleep", "300"])
apart = subprocess.Popen(["sleep", "300"], process_group=0)
print(same.pid, apart.pid, flush=True)
same.wait()
"""

#: A process with a child, and a grandchild whose parent has exited.
ORPHAN = """
import subprocess
child = subprocess.Popen(["sleep", "300"])
orphan = subprocess.run(["sh", "-c", "sleep 300 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True).stdout
print(child.pid, orphan, flush=True)
child.wait()
"""

#: A process that keeps starting children, directly and through a shell.
FORKING = """
import subprocess
print(flush=True)
nested = subprocess.Popen(["sh", "-c", "while :; do sleep 0.02; done"])
while True:
    children = [subprocess.Popen(["sleep", "0.05"]) for _ in range(4)]
    for child in children:
        child.wait()
"""

type Start = Callable[..., tuple[int, list[int]]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    records.records_folder(tmp_path).mkdir()
    return tmp_path


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a command in its own session; returns its process id and the numbers of its first output line."""
    processes: list[subprocess.Popen[str]] = []

    def start(*argv: str) -> tuple[int, list[int]]:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)
        processes.append(process)
        assert process.stdout is not None
        return process.pid, [int(word) for word in process.stdout.readline().split()]

    yield start
    for process in processes:
        # Not reaped yet, so its id is still that of its session.
        for pid in launch.list_session_members(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def write(run: Path, name: str, **changes: object) -> records.Record:
    """A record of this process with some fields changed."""
    launch.write_record(records.record_path(run, name), name)
    content = json.loads(records.record_path(run, name).read_text())
    records.record_path(run, name).write_text(json.dumps({**content, **changes}))
    record = records.read_record(run, name)
    assert record is not None
    return record


def config_in(home: Path) -> LocalConfig:
    return LocalConfig(home, ports={}, heaps={})


def test_the_record_of_a_running_process_is_alive(run: Path) -> None:
    """A record has the ids of its process and is complete, with no partial file next to it."""
    launch.write_record(records.record_path(run, "kafka"), "kafka")
    record = records.read_record(run, "kafka")
    assert record is not None
    assert (record.name, record.pid, record.pgid, record.sid) == ("kafka", os.getpid(), os.getpgid(0), os.getsid(0))
    assert record.alive
    assert os.getpid() in record.members()
    assert list(records.records_folder(run).iterdir()) == [records.record_path(run, "kafka")]


def test_a_reused_process_id_is_not_recognised(run: Path, start: Start) -> None:
    """A process with a recorded id but another start time does not count as alive, is not found and gets no signal."""
    pid, _ = start("sh", "-c", "echo; exec sleep 300")
    boot, _, ticks = str(launch.process_fingerprint(pid)).rpartition("/")
    for mark in ("boot/1", f"{boot}/{int(ticks) - 1}"):
        record = write(run, "kafka", pid=pid, pgid=pid, sid=pid, mark=mark)
        assert not record.alive
        assert record.members() == []
        assert records.find_processes(run) == set()
        records.signal_process(record, signal.SIGKILL)
        assert launch.process_fingerprint(pid) is not None
        assert records.wait_until_gone(record, 0)


def test_a_fingerprint_of_an_earlier_boot_does_not_match(run: Path) -> None:
    """Process ids and start times can repeat after a reboot; the boot id does not."""
    mark = launch.process_fingerprint(os.getpid())
    assert mark is not None
    boot, ticks = mark.rsplit("/", 1)
    assert write(run, "kafka", mark=mark).alive
    assert not write(run, "kafka", mark=f"{boot[::-1]}/{ticks}").alive


def test_a_fingerprint_has_the_kernels_start_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the start in ticks since boot, as in records of earlier versions, and survives clock corrections."""
    ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    mark = str(launch.process_fingerprint(os.getpid()))
    assert mark.endswith(f"/{ticks}")
    boot = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot + 3_600.0)
    monkeypatch.setattr("psutil.boot_time", lambda: boot + 3_600.0)
    assert launch.process_fingerprint(os.getpid()) == mark


def test_an_exited_process_is_not_alive() -> None:
    """A process has ended even if its parent has not read its exit status yet."""
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert launch.process_fingerprint(process.pid) is None
    process.wait()
    assert launch.process_fingerprint(process.pid) is None


@pytest.mark.parametrize("keep", [0, 1, 40, -1])
def test_a_truncated_record_is_ignored(run: Path, keep: int) -> None:
    """A full disk can leave such files; the other records are still read."""
    write(run, "whole")
    text = records.record_path(run, "whole").read_text()
    records.record_path(run, "half").write_text(text[:keep])
    assert records.read_record(run, "half") is None
    assert [record.name for record in records.read_all(run)] == ["whole"]


@pytest.mark.parametrize("content", ["[]", "null", '"kafka"', '{"name": "kafka"}', '{"pid": "many"}', "\x00"])
def test_an_invalid_record_is_ignored(run: Path, content: str) -> None:
    """A file with any other content is not a record."""
    records.record_path(run, "odd").write_text(content)
    assert records.read_record(run, "odd") is None


@pytest.mark.parametrize("pid", [-1, 0, 2**40])
def test_an_impossible_process_id_is_not_alive(run: Path, pid: int) -> None:
    """A damaged process id matches no process and is never signalled."""
    record = write(run, "kafka", pid=pid)
    assert not record.alive
    assert record.members() == []


def test_without_records_nothing_runs(tmp_path: Path) -> None:
    """A server or a home that was never started has no record and no processes."""
    assert records.read_record(tmp_path / "none", "kafka") is None
    assert records.read_all(tmp_path / "none") == []
    assert records.find_processes(tmp_path / "none") == set()


def test_deleting_records_deletes_partial_ones_too(run: Path) -> None:
    """The next start begins without any record."""
    write(run, "kafka")
    (records.records_folder(run) / "kafka.json.17.partial").write_text("{")
    records.delete_records(run)
    assert list(records.records_folder(run).iterdir()) == []


def test_the_processes_of_a_session_are_found(run: Path, start: Start) -> None:
    """A server is found with its children in any process group; a process without a record is not."""
    family = Launch((sys.executable, "-I", "-S", "-c", FAMILY), run)
    config = config_in(run)
    pid, children = start(*launch_command(write_spec(config, "kafka", family)))
    start("sh", "-c", "echo; exec sleep 300")
    assert records.find_processes(config.run) == {pid, *children}
    record = records.read_record(config.run, "kafka")
    assert record is not None
    assert set(record.members()) == {pid, children[0]}


def test_a_session_outlives_its_leader(run: Path, start: Start) -> None:
    """After the supervisor was killed, all processes of its session are found through its servers."""
    pid, (same, apart) = start(sys.executable, "-I", "-S", "-c", FAMILY)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    write(run, "kafka", pid=same, pgid=pid, sid=pid, mark=launch.process_fingerprint(same))
    assert records.find_processes(run) == {same, apart}


def test_the_session_of_an_unrelated_process_is_left_alone(run: Path, start: Start) -> None:
    """If a record names the session of another process, only the recorded process itself is found."""
    pid, _ = start(sys.executable, "-I", "-S", "-c", FAMILY)
    unrelated, _ = start("sh", "-c", "echo; exec sleep 300")
    write(run, "kafka", pid=pid, pgid=pid, sid=unrelated, mark=launch.process_fingerprint(pid))
    assert records.find_processes(run) == {pid}


def test_tools_are_killed_and_servers_are_not(run: Path, start: Start) -> None:
    """Tools of a killed start are killed, because the next start runs them again; running servers stay."""
    tool, _ = start("sh", "-c", "echo; exec sleep 300")
    server, _ = start("sh", "-c", "echo; exec sleep 300")
    for name, pid in (("postgres" + records.TOOL, tool), ("postgres", server)):
        write(run, name, pid=pid, pgid=pid, sid=pid, mark=launch.process_fingerprint(pid))
    records.kill_tools(run)
    assert launch.process_fingerprint(tool) is None
    assert launch.process_fingerprint(server) is not None


def test_signals_reach_the_recorded_process(run: Path, start: Start) -> None:
    """The process gets the signal, its end is noticed, and a later signal is not an error."""
    pid, _ = start("sh", "-c", "echo; exec sleep 300")
    record = write(run, "kafka", pid=pid, pgid=pid, sid=pid, mark=launch.process_fingerprint(pid))
    records.signal_process(record, signal.SIGTERM)
    assert records.wait_until_gone(record, 30)
    records.signal_process(record, signal.SIGTERM)


def test_any_process_name_is_handled(start: Start) -> None:
    """A process that calls itself ``) Z 1 1`` is recognised by its session and start time."""
    code = "import time; open('/proc/self/comm', 'w').write(') Z 1 1 ('); print(flush=True); time.sleep(300)"
    pid, _ = start(sys.executable, "-I", "-S", "-c", code)
    assert launch.process_fingerprint(pid) is not None
    assert launch.list_session_members(pid) == {pid}


def test_orphans_no_longer_descend_from_the_supervisor(start: Start) -> None:
    """Descendants of the supervisor are not orphans; without a supervisor there are none."""
    supervisor, (child, orphan) = start(sys.executable, "-I", "-S", "-c", ORPHAN)
    assert launch.list_session_members(supervisor) == {supervisor, child, orphan}
    assert launch.find_orphans(supervisor) == {orphan}
    assert launch.find_orphans(2**22 + 1) == set()


def test_a_killed_supervisor_has_no_orphans(start: Start) -> None:
    """Without a running supervisor nothing is an orphan, even if its exit status has not been read yet."""
    supervisor, (child, orphan) = start(sys.executable, "-I", "-S", "-c", ORPHAN)
    os.kill(supervisor, signal.SIGKILL)
    os.waitid(os.P_PID, supervisor, os.WEXITED | os.WNOWAIT)
    assert launch.list_session_members(supervisor) == {child, orphan}
    assert launch.find_orphans(supervisor) == set()


def test_processes_that_were_just_forked_are_not_orphans(start: Start) -> None:
    """A process forked during a scan is not mistaken for an orphan, which would be killed."""
    supervisor, _ = start(sys.executable, "-I", "-S", "-c", FORKING)
    for _ in range(100):
        assert launch.find_orphans(supervisor) == set()


def test_launch_becomes_the_server(run: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it was recorded, the same process becomes the server, in its folder and with only its environment."""
    config = config_in(run)
    monkeypatch.setenv("STRANGE", "1")
    script = 'test "$PWD" = / && test "$ODD" = "a b" && test -z "$STRANGE" && echo $$; exec sleep 300'
    spec = write_spec(config, "kafka", Launch(("/bin/sh", "-c", script), Path("/"), {"ODD": "a b"}))
    assert spec.stat().st_mode & 0o077 == 0, "a spec contains secrets"
    pid, output = start(*launch_command(spec))
    record = records.read_record(config.run, "kafka")
    assert record is not None
    assert output == [pid] == [record.pid]
    assert record.alive


def test_launch_is_fast(run: Path) -> None:
    """It runs at every start and restart, so it must take only a fraction of a second."""
    spec = write_spec(config_in(run), "kafka", Launch(("/bin/true",), Path("/")))
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(launch_command(spec), check=True)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.4, "0.1 s on an idle machine"
