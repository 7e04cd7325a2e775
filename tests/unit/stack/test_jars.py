"""The jars: the lock file, and downloads from a local repository that can misbehave."""

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
from stack.config import LOOPBACK, find_free_ports
from stack.jars import LOCK, Jar, fetch, parse, read_lock
from stack.servers import SERVERS

ROOTS = {server.name: server.jars for server in SERVERS if server.jars}
LOCKED = LOCK.read_text(encoding="utf-8")
CONTENT = b"PK\x03\x04" + bytes(200_000)


def jar(artifact: str, content: bytes = CONTENT) -> Jar:
    return Jar("kafka", "org.example", artifact, "1.0", "", hashlib.sha256(content).hexdigest())


class Repository:
    """A repository over HTTP. Each path has a list of responses; the last one repeats."""

    def __init__(self) -> None:
        self.responses: dict[str, list[bytes | int]] = {}
        self.requests: list[str] = []
        self.truncate_next = False
        self.server = ThreadingHTTPServer((LOOPBACK, 0), self._handler())
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server.server_address[1]}/maven"

    def serve(self, jar: Jar, *responses: bytes | int) -> None:
        """The responses for a jar: contents, or error statuses."""
        self.responses[f"/maven/{jar.file}"] = list(responses)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def respond(self, path: str) -> bytes | int:
        self.requests.append(path)
        responses = self.responses.get(path) or [404]
        return responses.pop(0) if len(responses) > 1 else responses[0]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        repository = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                response = repository.respond(self.path)
                body = response if isinstance(response, bytes) else b"no"
                self.send_response(200 if isinstance(response, bytes) else response)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if repository.truncate_next else body)
                repository.truncate_next = False

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    with closing(Repository()) as repository:
        monkeypatch.setenv("NO_PROXY", LOOPBACK)
        monkeypatch.setenv("no_proxy", LOOPBACK)
        monkeypatch.setenv("MILLRACE_MAVEN_REPOSITORY", f"{repository.url}/")
        yield repository


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository that does not respond."""
    monkeypatch.setenv("NO_PROXY", LOOPBACK)
    monkeypatch.setenv("no_proxy", LOOPBACK)
    monkeypatch.setenv("MILLRACE_MAVEN_REPOSITORY", f"http://{LOOPBACK}:{find_free_ports(1)[0]}")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_every_locked_jar_has_a_coordinate_and_a_checksum() -> None:
    """Every entry has a group, an artifact, a fixed version and the SHA-256 of the file."""
    entries = parse(LOCKED)
    assert {entry.server for entry in entries} == set(ROOTS)
    for entry in entries:
        assert entry.group
        assert entry.artifact
        assert re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z._-]*", entry.version), entry
        assert "SNAPSHOT" not in entry.version
        assert re.fullmatch("[0-9a-f]{64}", entry.sha256), entry


def test_the_lock_has_no_urls() -> None:
    """The user chooses the repository."""
    lines = [line for line in LOCKED.splitlines() if not line.startswith("#")]
    assert lines == [entry.line for entry in parse(LOCKED)]
    assert all(re.fullmatch(r"[a-z0-9]+ [\w.:-]+ [0-9a-f]{64}", line) for line in lines)
    assert "//" not in LOCKED


def test_each_jar_of_a_server_is_locked_once() -> None:
    """Two versions of an artifact on one class path would shadow each other."""
    names = [(entry.server, entry.group, entry.artifact, entry.classifier) for entry in parse(LOCKED)]
    assert len(names) == len(set(names))


def test_one_coordinate_has_one_checksum() -> None:
    """Servers share the cache, so a jar that two of them need is the same file."""
    checksums = {(entry.file, entry.sha256) for entry in parse(LOCKED)}
    assert len({file for file, _ in checksums}) == len(checksums)


@pytest.mark.parametrize("server", ROOTS)
def test_the_declared_jars_are_locked(server: str) -> None:
    """A declaration that changed without a new lock file fails here."""
    coordinates = {f"{entry.group}:{entry.artifact}:{entry.version}" for entry in read_lock(server)}
    assert set(ROOTS[server]) <= coordinates


def test_lines_round_trip() -> None:
    """Lines are parsed as they were written, with or without a classifier; comments and blank lines are skipped."""
    plain, native = jar("a"), Jar("neo4j", "io.netty", "epoll", "4.1", "linux-x86_64", "0" * 64)
    assert parse(f"# comment\n\n{plain.line}\n{native.line}\n") == [plain, native]
    assert native.file == "io/netty/epoll/4.1/epoll-4.1-linux-x86_64.jar"


@pytest.mark.parametrize("line", ["kafka a:b:1", "kafka a:b " + "0" * 64, "kafka a:b:1 0123", "a:b:1 " + "0" * 64])
def test_a_damaged_line_is_reported(line: str) -> None:
    """The message includes the line number, the expected format and the command that generates the file."""
    with pytest.raises(ConfigurationError, match=r"jars.lock line 2 .*sha256.*lock-jars"):
        parse(f"# comment\n{line}\n")


def test_a_jar_is_downloaded_once(repository: Repository, tmp_path: Path) -> None:
    """The second start uses only the cache."""
    entry = jar("good")
    repository.serve(entry, CONTENT)
    assert fetch([entry], tmp_path) == [tmp_path / entry.file]
    assert (tmp_path / entry.file).read_bytes() == CONTENT
    assert repository.requests == [f"/maven/{entry.file}"]
    assert fetch([entry], tmp_path) == [tmp_path / entry.file]
    assert len(repository.requests) == 1
    assert files(tmp_path) == [entry.file]


def test_files_are_returned_in_order(repository: Repository, tmp_path: Path) -> None:
    """The order of a class path matters, whichever download finishes first."""
    entries = [jar(f"jar-{number}", CONTENT + bytes([number])) for number in range(20)]
    for number, entry in enumerate(entries):
        repository.serve(entry, CONTENT + bytes([number]))
    progress: list[str] = []
    assert fetch(entries, tmp_path, progress.append) == [tmp_path / entry.file for entry in entries]
    assert progress[0] == "downloading 20 jars"
    assert progress[-1] == "downloading jars, 20 of 20"


def test_a_file_with_another_checksum_is_rejected(repository: Repository, tmp_path: Path) -> None:
    """It is neither cached nor retried, and the error says what to check."""
    entry = jar("changed")
    repository.serve(entry, CONTENT[:-1] + b"!")
    with pytest.raises(ConfigurationError, match=r"changed 1\.0 is not the file .*MILLRACE_MAVEN_REPOSITORY"):
        fetch([entry], tmp_path)
    assert files(tmp_path) == []
    assert len(repository.requests) == 1


def test_a_truncated_download_is_retried(repository: Repository, tmp_path: Path) -> None:
    """The next attempt starts over, and only the complete file is cached."""
    entry = jar("cut")
    repository.serve(entry, CONTENT)
    repository.truncate_next = True
    fetch([entry], tmp_path)
    assert len(repository.requests) == 2
    assert (tmp_path / entry.file).read_bytes() == CONTENT
    assert files(tmp_path) == [entry.file]


def test_a_busy_repository_is_retried(repository: Repository, tmp_path: Path) -> None:
    """A single error status does not fail a start."""
    entry = jar("busy")
    repository.serve(entry, 503, CONTENT)
    fetch([entry], tmp_path)
    assert files(tmp_path) == [entry.file]


def test_finished_downloads_survive_a_failure(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start only downloads the rest."""
    monkeypatch.setattr(jars, "_ATTEMPTS", 1)
    good, absent = jar("good"), jar("absent")
    repository.serve(good, CONTENT)
    fetch([good], tmp_path)
    with pytest.raises(TransientError, match=r"absent 1\.0 cannot be downloaded"):
        fetch([good, absent], tmp_path)
    assert files(tmp_path) == [good.file]
    assert repository.requests.count(f"/maven/{good.file}") == 1


@pytest.mark.usefixtures("nowhere")
def test_an_unreachable_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is transient and names the jar and the settings of a mirror and a proxy."""
    monkeypatch.setattr(jars, "_ATTEMPTS", 1)
    with pytest.raises(TransientError) as caught:
        fetch([jar("far")], tmp_path)
    for part in ("far 1.0", "MILLRACE_MAVEN_REPOSITORY", "HTTPS_PROXY", str(tmp_path)):
        assert part in str(caught.value)
    assert files(tmp_path) == []


@pytest.mark.usefixtures("nowhere")
def test_a_complete_cache_needs_no_network(tmp_path: Path) -> None:
    """The repository gets no request if all jars are cached."""
    entry = jar("kept")
    (tmp_path / entry.file).parent.mkdir(parents=True)
    (tmp_path / entry.file).write_bytes(CONTENT)
    assert fetch([entry], tmp_path) == [tmp_path / entry.file]


def test_a_cancelled_start_downloads_nothing(repository: Repository, tmp_path: Path) -> None:
    """If another server failed in the meantime, pending downloads are skipped."""
    entry, cancelled = jar("late"), threading.Event()
    repository.serve(entry, CONTENT)
    cancelled.set()
    fetch([entry], tmp_path, cancelled=cancelled)
    assert repository.requests == []
    assert files(tmp_path) == []


def test_a_repository_is_reachable_unless_it_fails(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository is reachable unless it does not respond or returns a server error."""
    assert jars.is_repository_reachable()
    assert repository.requests == ["/maven/"]
    repository.responses["/maven/"] = [503]
    assert not jars.is_repository_reachable()
    monkeypatch.setenv("MILLRACE_MAVEN_REPOSITORY", f"http://{LOOPBACK}:{find_free_ports(1)[0]}")
    assert not jars.is_repository_reachable()


def test_a_mirror_replaces_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trailing slash does not matter, and an unset or empty setting means the default."""
    monkeypatch.setenv("MILLRACE_MAVEN_REPOSITORY", "http://mirror/maven2/")
    assert jars.repository_url() == "http://mirror/maven2"
    monkeypatch.setenv("MILLRACE_MAVEN_REPOSITORY", "")
    default = jars.repository_url()
    monkeypatch.delenv("MILLRACE_MAVEN_REPOSITORY")
    assert jars.repository_url() == default
    assert default.startswith("https://")
