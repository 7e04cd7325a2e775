"""The jars of the Java servers: named and checked by ``jars.lock``, fetched in parallel, kept."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from include.errors import ConfigurationError, TransientError

LOCK = Path(__file__).with_name("jars.lock")

#: What each server is asked for by name; ``lock-jars`` finds the rest. The loggers are there so that logs are.
ROOTS: dict[str, tuple[str, ...]] = {
    "kafka": ("org.apache.kafka:kafka_2.13:4.1.2", "org.apache.logging.log4j:log4j-slf4j-impl:2.25.3"),
    "mongo": ("de.bwaldvogel:mongo-java-server-h2-backend:1.47.0", "org.slf4j:slf4j-simple:2.0.17"),
    "neo4j": ("org.neo4j:neo4j:5.26.12",),
}

NETWORK_HINT = (
    "The Maven repository must be within reach: check the network and the proxy settings (HTTPS_PROXY), "
    "or set MILLRACE_MAVEN_REPOSITORY to a mirror."
)

_THREADS = 16
_ATTEMPTS = 4


@dataclass(frozen=True, order=True)
class Jar:
    """One file: its Maven coordinate and what its content must be."""

    server: str
    group: str
    artifact: str
    version: str
    classifier: str
    sha256: str

    @property
    def file(self) -> str:
        """Its place in a Maven repository, and in our cache."""
        suffix = f"-{self.classifier}" if self.classifier else ""
        folder = f"{self.group.replace('.', '/')}/{self.artifact}/{self.version}"
        return f"{folder}/{self.artifact}-{self.version}{suffix}.jar"

    @property
    def line(self) -> str:
        coordinate = ":".join(part for part in (self.group, self.artifact, self.version, self.classifier) if part)
        return f"{self.server} {coordinate} {self.sha256}"


def parse(text: str) -> list[Jar]:
    """The jars of a lock file. Raises ``ConfigurationError`` naming the line that is wrong."""
    lines = enumerate(text.splitlines(), start=1)
    return [_parse_line(number, line) for number, line in lines if line.strip() and not line.startswith("#")]


def _parse_line(number: int, line: str) -> Jar:
    parts = line.split()
    coordinate = parts[1].split(":") if len(parts) == 3 else []
    if len(coordinate) not in (3, 4) or len(parts[2]) != 64:
        raise ConfigurationError(
            f"{LOCK.name} line {number} is not 'server group:artifact:version[:classifier] sha256': "
            "make the file again with python -m stack lock-jars"
        )
    classifier = coordinate[3] if len(coordinate) == 4 else ""
    return Jar(parts[0], coordinate[0], coordinate[1], coordinate[2], classifier, parts[2])


def locked(server: str) -> list[Jar]:
    return [jar for jar in parse(LOCK.read_text(encoding="utf-8")) if jar.server == server]


def fetch(
    jars: Iterable[Jar],
    cache: Path,
    note: Callable[[str], None] = lambda _: None,
    cancelled: threading.Event | None = None,
) -> list[Path]:
    """The files of these jars in the cache, downloading those that are missing, several at a time.

    A file is in the cache only once its checksum was right, so a download cut short is done again.
    Raises ``TransientError`` without a network and ``ConfigurationError`` for a file that is not the locked one.
    """
    wanted = list(jars)
    missing = [jar for jar in wanted if not (cache / jar.file).exists()]
    if missing:
        _download_all(missing, cache, note, cancelled or threading.Event())
    return [cache / jar.file for jar in wanted]


def _download_all(jars: list[Jar], cache: Path, note: Callable[[str], None], cancelled: threading.Event) -> None:
    note(f"fetching {len(jars)} jars")
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="jars")
    try:
        futures = [pool.submit(_download, jar, cache, cancelled) for jar in jars]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            note(f"fetching jars, {done} of {len(jars)}")
    finally:
        pool.shutdown(cancel_futures=True)


def repository() -> str:
    """The address of the repository, known to jgo; ``MILLRACE_MAVEN_REPOSITORY`` names a mirror instead."""
    from jgo.constants import MAVEN_CENTRAL_URL

    return (os.environ.get("MILLRACE_MAVEN_REPOSITORY") or str(MAVEN_CENTRAL_URL)).rstrip("/")


def reachable() -> bool:
    """Whether the repository answers now."""
    import requests

    try:
        return bool(requests.head(f"{repository()}/", timeout=10, allow_redirects=True).status_code < 500)
    except requests.RequestException:
        return False


def _download(jar: Jar, cache: Path, cancelled: threading.Event) -> None:
    import requests

    failure: Exception | None = None
    for attempt in range(_ATTEMPTS):
        if cancelled.is_set() or (attempt and cancelled.wait(attempt * 0.5)):
            return
        try:
            _download_once(jar, cache, cancelled)
        except requests.RequestException as exc:
            failure = exc
        else:
            return
    raise TransientError(
        f"{jar.artifact} {jar.version} cannot be downloaded from the Maven repository ({type(failure).__name__}). "
        f"{NETWORK_HINT} What is already in {cache} is kept."
    ) from failure


def _download_once(jar: Jar, cache: Path, cancelled: threading.Event) -> None:
    from jgo.util import http

    target = cache / jar.file
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.{threading.get_ident()}.partial")
    digest = hashlib.sha256()
    try:
        with http.get(f"{repository()}/{jar.file}", stream=True, timeout=30) as answer, partial.open("wb") as file:
            answer.raise_for_status()
            for chunk in answer.iter_content(chunk_size=1 << 16):
                if cancelled.is_set():
                    return
                file.write(chunk)
                digest.update(chunk)
        if digest.hexdigest() != jar.sha256:
            raise ConfigurationError(
                f"{jar.artifact} {jar.version} is not the file that {LOCK.name} names (sha256 {digest.hexdigest()}). "
                "Look at MILLRACE_MAVEN_REPOSITORY or a proxy that changes files; do not go on with it."
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
