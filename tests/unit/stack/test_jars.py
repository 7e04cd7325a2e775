"""The jars: the lock file that names them, and a repository on this machine that serves them well or badly."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from include.errors import ConfigurationError, TransientError
from stack import jars
from stack.config import LOOPBACK, free_ports
from stack.jars import LOCK, ROOTS, Jar, fetch, locked, parse

LOCKED = LOCK.read_text(encoding="utf-8")
CONTENT = b"PK\x03\x04" + bytes(200_000)


def jar(artifact: str, content: bytes = CONTENT) -> Jar:
    return Jar("kafka", "org.example", artifact, "1.0", "", hashlib.sha256(content).hexdigest())


class Repository:
    """A repository over HTTP. Each path has its answers, one after another; the last one stays."""

    def __init__(self) -> None:
        self.answers: dict[str, list[bytes | int]] = {}
        self.asked: list[str] = []
        self.cut = False
        self.server = ThreadingHTTPServer((LOOPBACK, 0), self._handler())
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server.server_address[1]}/maven"

    def serve(self, wanted: Jar, *answers: bytes | int) -> None:
        """Contents, or statuses of refusals."""
        self.answers[f"/maven/{wanted.file}"] = list(answers)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, path: str) -> bytes | int:
        self.asked.append(path)
        answers = self.answers.get(path) or [404]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        repository = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = repository.answer(self.path)
                body = answer if isinstance(answer, bytes) else b"no"
                self.send_response(200 if isinstance(answer, bytes) else answer)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if repository.cut else body)
                repository.cut = False

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    with closing(Repository()) as made:
        monkeypatch.setenv("NO_PROXY", LOOPBACK)
        monkeypatch.setenv("no_proxy", LOOPBACK)
        monkeypatch.setenv("MILLRACE_MAVEN_REPOSITORY", f"{made.url}/")
        yield made


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository that nobody serves."""
    monkeypatch.setenv("NO_PROXY", LOOPBACK)
    monkeypatch.setenv("no_proxy", LOOPBACK)
    monkeypatch.setenv("MILLRACE_MAVEN_REPOSITORY", f"http://{LOOPBACK}:{free_ports(1)[0]}")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_every_locked_jar_has_a_coordinate_and_a_checksum() -> None:
    """Nothing is fetched by a name or a range alone: group, artifact, a fixed version, and the SHA-256 of the file."""
    found = parse(LOCKED)
    assert {entry.server for entry in found} == set(ROOTS)
    for entry in found:
        assert entry.group
        assert entry.artifact
        assert re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z._-]*", entry.version), entry
        assert "SNAPSHOT" not in entry.version
        assert re.fullmatch("[0-9a-f]{64}", entry.sha256), entry


def test_the_lock_names_no_address() -> None:
    """Where the files come from is the user's choice of a repository."""
    lines = [line for line in LOCKED.splitlines() if not line.startswith("#")]
    assert lines == [entry.line for entry in parse(LOCKED)]
    assert all(re.fullmatch(r"[a-z0-9]+ [\w.:-]+ [0-9a-f]{64}", line) for line in lines)
    assert "//" not in LOCKED


def test_the_lock_has_each_jar_of_a_server_once() -> None:
    """Two versions of one artifact on a class path would hide each other."""
    names = [(entry.server, entry.group, entry.artifact, entry.classifier) for entry in parse(LOCKED)]
    assert len(names) == len(set(names))


def test_one_coordinate_has_one_checksum() -> None:
    """Servers share the cache: a jar that two of them need is one file."""
    sums = {(entry.file, entry.sha256) for entry in parse(LOCKED)}
    assert len({file for file, _ in sums}) == len(sums)


@pytest.mark.parametrize("server", ROOTS)
def test_what_a_server_is_asked_for_is_locked(server: str) -> None:
    """A root that was changed without making the lock file again is found here."""
    coordinates = {f"{entry.group}:{entry.artifact}:{entry.version}" for entry in locked(server)}
    assert set(ROOTS[server]) <= coordinates


def test_lines_are_read_back() -> None:
    """What lock-jars writes is what is read, with and without a classifier; comments and blank lines are skipped."""
    plain, native = jar("a"), Jar("neo4j", "io.netty", "epoll", "4.1", "linux-x86_64", "0" * 64)
    assert parse(f"# comment\n\n{plain.line}\n{native.line}\n") == [plain, native]
    assert native.file == "io/netty/epoll/4.1/epoll-4.1-linux-x86_64.jar"


@pytest.mark.parametrize("line", ["kafka a:b:1", "kafka a:b " + "0" * 64, "kafka a:b:1 0123", "a:b:1 " + "0" * 64])
def test_a_damaged_line_is_named(line: str) -> None:
    """With its number, what it should be, and the command that makes the file again."""
    with pytest.raises(ConfigurationError, match=r"jars.lock line 2 .*sha256.*lock-jars"):
        parse(f"# comment\n{line}\n")


def test_a_good_file_is_kept_and_not_fetched_again(repository: Repository, tmp_path: Path) -> None:
    """The second start reads the cache alone."""
    wanted = jar("good")
    repository.serve(wanted, CONTENT)
    assert fetch([wanted], tmp_path) == [tmp_path / wanted.file]
    assert (tmp_path / wanted.file).read_bytes() == CONTENT
    assert repository.asked == [f"/maven/{wanted.file}"]
    assert fetch([wanted], tmp_path) == [tmp_path / wanted.file]
    assert len(repository.asked) == 1
    assert files(tmp_path) == [wanted.file]


def test_files_come_back_in_the_order_asked_for(repository: Repository, tmp_path: Path) -> None:
    """The order of a class path counts, whichever download ends first."""
    wanted = [jar(f"jar-{number}", CONTENT + bytes([number])) for number in range(20)]
    for number, entry in enumerate(wanted):
        repository.serve(entry, CONTENT + bytes([number]))
    said: list[str] = []
    assert fetch(wanted, tmp_path, said.append) == [tmp_path / entry.file for entry in wanted]
    assert said[0] == "fetching 20 jars"
    assert said[-1] == "fetching jars, 20 of 20"


def test_a_file_that_is_not_the_locked_one_is_refused(repository: Repository, tmp_path: Path) -> None:
    """It is not kept, not tried again, and the message says where to look."""
    wanted = jar("changed")
    repository.serve(wanted, CONTENT[:-1] + b"!")
    with pytest.raises(ConfigurationError, match=r"changed 1\.0 is not the file .*MILLRACE_MAVEN_REPOSITORY"):
        fetch([wanted], tmp_path)
    assert files(tmp_path) == []
    assert len(repository.asked) == 1


def test_a_download_cut_short_is_done_again(repository: Repository, tmp_path: Path) -> None:
    """Half a file is no file: the next attempt begins anew and its result is kept."""
    wanted = jar("cut")
    repository.serve(wanted, CONTENT)
    repository.cut = True
    fetch([wanted], tmp_path)
    assert len(repository.asked) == 2
    assert (tmp_path / wanted.file).read_bytes() == CONTENT
    assert files(tmp_path) == [wanted.file]


def test_a_repository_that_is_busy_is_asked_again(repository: Repository, tmp_path: Path) -> None:
    """One refusal does not end a start."""
    wanted = jar("busy")
    repository.serve(wanted, 503, CONTENT)
    fetch([wanted], tmp_path)
    assert files(tmp_path) == [wanted.file]


def test_what_was_fetched_before_a_failure_stays(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start goes on with the rest."""
    monkeypatch.setattr(jars, "_ATTEMPTS", 1)
    good, absent = jar("good"), jar("absent")
    repository.serve(good, CONTENT)
    fetch([good], tmp_path)
    with pytest.raises(TransientError, match=r"absent 1\.0 cannot be downloaded"):
        fetch([good, absent], tmp_path)
    assert files(tmp_path) == [good.file]
    assert repository.asked.count(f"/maven/{good.file}") == 1


@pytest.mark.usefixtures("nowhere")
def test_a_repository_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may pass by itself; the message names the jar, and the settings of a mirror and of a proxy."""
    monkeypatch.setattr(jars, "_ATTEMPTS", 1)
    with pytest.raises(TransientError) as caught:
        fetch([jar("far")], tmp_path)
    for part in ("far 1.0", "MILLRACE_MAVEN_REPOSITORY", "HTTPS_PROXY", str(tmp_path)):
        assert part in str(caught.value)
    assert files(tmp_path) == []


@pytest.mark.usefixtures("nowhere")
def test_a_cache_that_is_whole_needs_no_network(tmp_path: Path) -> None:
    """All jars are there: the repository is not asked."""
    wanted = jar("kept")
    (tmp_path / wanted.file).parent.mkdir(parents=True)
    (tmp_path / wanted.file).write_bytes(CONTENT)
    assert fetch([wanted], tmp_path) == [tmp_path / wanted.file]


def test_a_start_that_was_given_up_fetches_nothing(repository: Repository, tmp_path: Path) -> None:
    """Another server failed meanwhile: what is still to come is left."""
    wanted, cancelled = jar("late"), threading.Event()
    repository.serve(wanted, CONTENT)
    cancelled.set()
    fetch([wanted], tmp_path, cancelled=cancelled)
    assert repository.asked == []
    assert files(tmp_path) == []


def test_reachable(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository that answers anything but an error of its own is there; one that nobody serves is not."""
    assert jars.reachable()
    assert repository.asked == ["/maven/"]
    repository.answers["/maven/"] = [503]
    assert not jars.reachable()
    monkeypatch.setenv("MILLRACE_MAVEN_REPOSITORY", f"http://{LOOPBACK}:{free_ports(1)[0]}")
    assert not jars.reachable()


def test_a_mirror_is_asked_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    """With or without a slash at its end; without the setting, or with an empty one, there is a default."""
    monkeypatch.setenv("MILLRACE_MAVEN_REPOSITORY", "http://mirror/maven2/")
    assert jars.repository() == "http://mirror/maven2"
    monkeypatch.setenv("MILLRACE_MAVEN_REPOSITORY", "")
    default = jars.repository()
    monkeypatch.delenv("MILLRACE_MAVEN_REPOSITORY")
    assert jars.repository() == default
    assert default.startswith("https://")
