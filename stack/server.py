"""What a local server is: how it is prepared, started, asked whether it answers, and stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from include.errors import MillraceError, PermanentError
from stack import records
from stack.config import PROJECT, LocalConfig
from stack.credentials import Secrets, write_private

#: All that a server inherits from the shell; the rest it gets from its ``Launch``, so every start is the same.
_INHERITED = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TMPDIR", "TZ",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy",
)  # fmt: skip


class ServerError(PermanentError):
    """A local server did not come up. The message names its log and ends with the log's last lines."""


class CancelledError(MillraceError):
    """Another server failed, or the user interrupted: what was under way has been given up."""


@dataclass(frozen=True)
class Account:
    """The user a server runs as when that is not ours."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Launch:
    """The process to become. ``environment`` is added to the few variables that every server inherits."""

    argv: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    account: Account | None = None


@dataclass(frozen=True)
class Stop:
    """``signum`` asks the server to end, SIGKILL follows after ``seconds``. A lower ``order`` is stopped earlier."""

    signum: signal.Signals = signal.SIGTERM
    seconds: int = 20
    order: int = 30


@dataclass(frozen=True)
class Context:
    """What a server's functions may use. ``note`` says what is being done, for the progress on the screen."""

    config: LocalConfig
    secrets: Secrets
    cancelled: threading.Event = field(default_factory=threading.Event)
    note: Callable[[str], None] = lambda _: None

    def run(self, name: str, launch: Launch, stdin: str = "") -> None:
        """Run a tool to its end, output to the log of ``name``; it is ended when the start is cancelled.

        Raises ``ServerError`` with the log's last lines when the tool fails.
        """
        log = self.config.log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        spec = write_spec(self.config, name + records.TOOL, launch)
        with log.open("ab") as output:
            # The tool's own group: Ctrl-C reaches us alone, and we end the tool.
            process = subprocess.Popen(
                launcher(spec), stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
            )
            try:
                status = _wait(process, stdin, self.cancelled)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if self.cancelled.is_set():
            raise CancelledError(name)
        if status != 0:
            raise ServerError(f"preparing {name} failed with exit code {status}. {log_hint(log)}")


@dataclass(frozen=True)
class Server:
    """One server. ``ports`` names entries of ``LocalConfig.ports``; ``answers`` raises while it does not answer.

    ``settle_seconds`` is how long a start must last to count as one: a crash before it is a failed start, and
    after a few of those the supervisor gives the server up.
    """

    name: str
    ports: tuple[str, ...]
    launch: Callable[[Context], Launch]
    answers: Callable[[Context], None]
    prepare: Callable[[Context], None] = lambda _: None
    needs: tuple[str, ...] = ()
    start_seconds: int = 120
    settle_seconds: int = 3
    stop: Stop = field(default_factory=Stop)

    def write_spec(self, context: Context) -> Path:
        """Write what the supervisor is to start."""
        launch, settings = self.launch(context), self.settings(context)
        return write_spec(context.config, self.name, launch, clears_orphans=True, settings=settings)

    def settings(self, context: Context) -> dict[str, object]:
        """All that makes this server another one for its clients or its memory, as JSON gives it back."""
        config, launch = context.config, self.launch(context)
        return {
            "argv": list(launch.argv),
            "environment": dict(launch.environment),
            "ports": {name: config.ports[name] for name in self.ports},
            "heap": config.heaps.get(self.name),
        }

    def differs(self, context: Context) -> bool:
        """Whether it was last started with other settings than those of now."""
        path = spec_path(context.config, self.name)
        return bool(json.loads(path.read_text(encoding="utf-8")).get("settings") != self.settings(context))


def write_spec(
    config: LocalConfig, name: str, launch: Launch, *, clears_orphans: bool = False, settings: object = None
) -> Path:
    """Write what ``launch.py`` reads to become this process. Only its owner can read it: it carries secrets.

    ``settings`` is kept with it, for ``Server.differs``.
    """
    (config.run / "records").mkdir(parents=True, exist_ok=True)
    account = launch.account
    inherited = {key: os.environ[key] for key in _INHERITED if key in os.environ}
    content = {
        "name": name,
        "argv": launch.argv,
        "folder": str(launch.folder),
        "environment": {**inherited, "NO_PROXY": "127.0.0.1,localhost", **launch.environment},
        "account": {"name": account.name, "uid": account.uid, "gid": account.gid} if account else None,
        "record": str(records.path(config.run, name)),
        "clears_orphans": clears_orphans,
        "settings": settings,
    }
    path = spec_path(config, name)
    write_private(path, json.dumps(content, indent=1))
    return path


def spec_path(config: LocalConfig, name: str) -> Path:
    return config.run / "specs" / f"{name}.json"


def launcher(spec_path: Path) -> list[str]:
    """The command that becomes the process of a spec file."""
    return [sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py")), str(spec_path)]


def python_environment(config: LocalConfig, **more: str) -> dict[str, str]:
    """For processes that import our own packages."""
    return {"PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1", **more, **config.extra_environment}


def log_hint(log: Path, lines: int = 15) -> str:
    """Where to read on, and how the log ends."""
    return f"Its log is {log}; it ends:\n{tail(log, lines)}"


def tail(log: Path, lines: int) -> str:
    """The last lines of a log, indented; says so when there are none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 64_000))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return "    (no log was written)"
    last = [line for line in text.splitlines() if line.strip()][-lines:]
    return "\n".join(f"    {line[:300]}" for line in last) or "    (the log is empty)"


def _wait(process: subprocess.Popen[bytes], stdin: str, cancelled: threading.Event) -> int:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:
        process.stdin.write(stdin.encode())
    while not cancelled.is_set():
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=0.1)
    return -1
