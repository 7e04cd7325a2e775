"""The jars of the Java servers: named and verified by ``jars.lock``, downloaded in parallel and cached."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from include.errors import ConfigurationError, TransientError
from include.settings_parser import SettingsParser

LOCK = Path(__file__).with_name("jars.lock")

NETWORK_HINT = (
    "The Maven repository must be reachable: check the network and the proxy settings (HTTPS_PROXY), "
    "or set MILLRACE_MAVEN_REPOSITORY to a mirror."
)

_THREADS = 16
_ATTEMPTS = 4


@dataclass(frozen=True, order=True)
class Jar:
    """One file: its Maven coordinate and the checksum of its content."""

    server: str
    group: str
    artifact: str
    version: str
    classifier: str
    sha256: str

    @property
    def file(self) -> str:
        """Its path in a Maven repository, and in the cache."""
        suffix = f"-{self.classifier}" if self.classifier else ""
        folder = f"{self.group.replace('.', '/')}/{self.artifact}/{self.version}"
        return f"{folder}/{self.artifact}-{self.version}{suffix}.jar"

    @property
    def line(self) -> str:
        """Its line in the lock file."""
        coordinate = ":".join(part for part in (self.group, self.artifact, self.version, self.classifier) if part)
        return f"{self.server} {coordinate} {self.sha256}"


def parse(text: str) -> list[Jar]:
    """The jars of a lock file. Raises ``ConfigurationError`` naming an invalid line."""
    lines = enumerate(text.splitlines(), start=1)
    return [_parse_line(number, line) for number, line in lines if line.strip() and not line.startswith("#")]


def _parse_line(number: int, line: str) -> Jar:
    parts = line.split()
    coordinate = parts[1].split(":") if len(parts) == 3 else []
    if len(coordinate) not in (3, 4) or len(parts[2]) != 64:
        raise ConfigurationError(
            f"{LOCK.name} line {number} is not 'server group:artifact:version[:classifier] sha256': "
            "regenerate the file with python -m stack lock-jars"
        )
    classifier = coordinate[3] if len(coordinate) == 4 else ""
    return Jar(parts[0], coordinate[0], coordinate[1], coordinate[2], classifier, parts[2])


def read_lock(server: str | None = None) -> list[Jar]:
    """The locked jars of one server; by default those of all servers."""
    jars = parse(LOCK.read_text(encoding="utf-8"))
    return [jar for jar in jars if server is None or jar.server == server]


def fetch(
    jars: Iterable[Jar],
    cache: Path,
    report_progress: Callable[[str], None] = lambda _: None,
    cancelled: threading.Event | None = None,
) -> list[Path]:
    """The cached files of these jars. Downloads those that are missing, several at a time.

    A file enters the cache only after its checksum was verified, so an interrupted download is repeated.
    Raises ``TransientError`` without a network and ``ConfigurationError`` for a file that is not the locked one.
    """
    jars = list(jars)
    missing = [jar for jar in jars if not (cache / jar.file).exists()]
    if missing:
        _download_all(missing, cache, report_progress, cancelled or threading.Event())
    return [cache / jar.file for jar in jars]


def _download_all(
    jars: list[Jar], cache: Path, report_progress: Callable[[str], None], cancelled: threading.Event
) -> None:
    report_progress(f"downloading {len(jars)} jars")
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="jars")
    try:
        futures = [pool.submit(_download, jar, cache, cancelled) for jar in jars]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            report_progress(f"downloading jars, {done} of {len(jars)}")
    finally:
        pool.shutdown(cancel_futures=True)


def repository_url() -> str:
    """The URL of the repository: ``MILLRACE_MAVEN_REPOSITORY``, by default Maven Central as jgo knows it."""
    from jgo.constants import MAVEN_CENTRAL_URL

    settings = SettingsParser.from_environment(os.environ)
    return settings.text("MAVEN_REPOSITORY", str(MAVEN_CENTRAL_URL)).rstrip("/")


def is_repository_reachable() -> bool:
    """Whether the repository responds now."""
    import requests

    try:
        return bool(requests.head(f"{repository_url()}/", timeout=10, allow_redirects=True).status_code < 500)
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
        f"{NETWORK_HINT} Finished downloads stay in {cache}."
    ) from failure


def _download_once(jar: Jar, cache: Path, cancelled: threading.Event) -> None:
    from jgo.util import http

    target = cache / jar.file
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.{threading.get_ident()}.partial")
    digest = hashlib.sha256()
    try:
        with (
            http.get(f"{repository_url()}/{jar.file}", stream=True, timeout=30) as response,
            partial.open("wb") as file,
        ):
            response.raise_for_status()
            for chunk in response.iter_content(chunk_size=1 << 16):
                if cancelled.is_set():
                    return
                file.write(chunk)
                digest.update(chunk)
        if digest.hexdigest() != jar.sha256:
            raise ConfigurationError(
                f"{jar.artifact} {jar.version} is not the file that {LOCK.name} names (sha256 {digest.hexdigest()}). "
                "Do not use it. Check MILLRACE_MAVEN_REPOSITORY, and whether a proxy changes files."
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
