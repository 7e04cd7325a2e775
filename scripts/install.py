"""Create .venv and install requirements.txt into it: ``python3.12 -m scripts.install``, as ``make setup`` does.

uv installs the packages, because it is many times faster than pip. Where uv cannot be installed or fails, pip does it.
Both check every package against the hashes in requirements.txt. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from scripts.run_uv import read_pip_config, uv_environment
from stack.interrupts import INTERRUPTED, handle_interrupts, raise_interrupt

PROJECT = Path(__file__).resolve().parents[1]
VENV = PROJECT / ".venv"
REQUIREMENTS = PROJECT / "requirements.txt"

_QUIET_PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
#: uv prints such a line for every package, and there are hundreds.
_PACKAGE_LINE = re.compile(r" [-+~] ")
#: What uv and pip print before an error message.
#: Bytes. With less than that, whatever failed did so because the disk is full.
_DISK_FULL = 20_000_000
_ERROR_PREFIX = re.compile(r"^(error|cause|caused by): +", re.IGNORECASE)


class InstallationError(Exception):
    """The message says what to do."""


def main() -> int:
    """0 when everything is installed; the time it took is then in ``.venv/.installed``, for the demo's report."""
    handle_interrupts(raise_interrupt)
    began = time.monotonic()
    try:
        with _explain_disk_errors(VENV):
            python = create_environment(VENV)
            _report("installing the packages of requirements.txt (a few minutes and 7 GB the first time)")
            install(python, REQUIREMENTS)
            (VENV / ".installed").write_text(f"{time.monotonic() - began:.3f}\n", encoding="ascii")
    except InstallationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again to resume", file=sys.stderr)
        return INTERRUPTED
    return 0


@contextlib.contextmanager
def _explain_disk_errors(venv: Path) -> Iterator[None]:
    """Turn what a full or read-only disk causes into an ``InstallationError`` that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or error.filename is None:
            _reject_full_disks(venv)
        if error.filename is None:
            raise
        raise InstallationError(
            f"{error.filename} cannot be written ({error.strerror}): make it writable for this user"
        ) from error


def _reject_full_disks(venv: Path) -> None:
    """Raise ``InstallationError`` if the environment's disk or the temporary folder's has no space left."""
    existing = venv if venv.exists() else venv.parent
    for folder, setting in (
        (existing, "move the project to another disk"),
        (Path(tempfile.gettempdir()), "set TMPDIR"),
    ):
        if shutil.disk_usage(folder).free < _DISK_FULL:
            raise InstallationError(f"the disk of {folder} is full: free some space, or {setting}")


def create_environment(venv: Path) -> Path:
    """The Python of the virtual environment, which is created unless it is complete. pip is installed last."""
    python = venv / "bin" / "python"
    if venv.exists() and not os.access(venv, os.W_OK):
        raise InstallationError(f"{venv} cannot be written: make it writable for this user")
    if python.exists() and (venv / "bin" / "pip").exists():
        return python
    _report(f"creating {venv.name}")
    # Fails right away, and with a reason, where nothing can be written.
    venv.mkdir(exist_ok=True)
    if _run_quietly([sys.executable, "-m", "venv", str(venv)]) != 0:
        _reject_full_disks(venv)
        raise InstallationError(
            "this Python cannot create virtual environments; "
            "install its venv and ensurepip modules (on Debian and Ubuntu: python3.12-venv)"
        )
    return python


def install(python: Path, requirements: Path) -> None:
    """Install the packages with uv, or else with pip. Raises ``InstallationError``."""
    problem = _install_with_uv(python, requirements)
    if problem is None:
        return
    _reject_full_disks(python.parent.parent)
    _report(f"{problem}\ninstalling with pip instead, which takes several minutes longer")
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    if _run_quietly([*command, "--requirement", str(requirements)]) != 0:
        _reject_full_disks(python.parent.parent)
        raise InstallationError(
            "pip could not install the packages either; see the lines above. Check the network, pip's index, proxy "
            "and certificate settings (pip config list) and the free disk space (make doctor), then try again"
        )


def _install_with_uv(python: Path, requirements: Path) -> str | None:
    """Returns None if everything is installed, otherwise one sentence on what went wrong."""
    environment = uv_environment(os.environ, read_pip_config(python))
    pin = find_uv_pin(requirements.read_text(encoding="utf-8"))
    if _uv_version(python) != pin.split()[0].removeprefix("uv=="):
        problem = _install_uv(python, pin)
        if problem:
            return f"uv could not be installed: {problem}"
    command = [str(python.parent / "uv"), "pip", "install", "--python", str(python), "--require-hashes"]
    problem = _run([*command, "--requirement", str(requirements)], environment)
    return f"uv could not install the packages: {problem}" if problem else None


def find_uv_pin(requirements: str) -> str:
    """uv's own requirement, with its hashes."""
    pin = re.search(r"^uv==.*(?:\n +--hash=.*)*", requirements, re.MULTILINE)
    if pin is None:
        raise InstallationError("requirements.txt does not pin uv: restore the file, or run make requirements")
    return pin[0]


def _uv_version(python: Path) -> str:
    try:
        command = [str(python.parent / "uv"), "--version"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (our own uv)
    except OSError:
        return ""
    return answer.stdout.split()[1] if answer.returncode == 0 else ""


def _install_uv(python: Path, pin: str) -> str | None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(f"{pin}\n")
        file.flush()
        return _run([str(python), *_QUIET_PIP, "--require-hashes", "--requirement", file.name], dict(os.environ))


def _run(command: list[str], environment: dict[str, str]) -> str | None:
    """Run a command and show its progress. Returns None, or the last line it printed if it failed."""
    last: deque[str] = deque(maxlen=1)
    try:
        with _running(command, environment, subprocess.PIPE) as process:
            for line in process.stdout or ():
                text = line.decode(errors="replace").rstrip()
                if text and not _PACKAGE_LINE.match(text):
                    last.append(text.strip())
                    _report(f"  {text}")
    except FileNotFoundError as error:
        return str(error)
    if process.returncode == 0:
        return None
    return _ERROR_PREFIX.sub("", last[0]) if last else f"exit status {process.returncode}"


def _run_quietly(command: Sequence[str]) -> int:
    with _running(command, os.environ) as process:
        return process.wait()


@contextlib.contextmanager
def _running(
    command: Sequence[str], environment: Mapping[str, str], stdout: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command during the block. When interrupted, the command and everything that it started are killed."""
    # In a group of its own, so that there is something to kill. Nothing in it may ask the user: it could not read.
    process = subprocess.Popen(  # noqa: S603 (a command from this file)
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=None if stdout is None else subprocess.STDOUT,
        process_group=0,
    )
    try:
        yield process
        process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        if process.stdout is not None:
            process.stdout.close()


def _report(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
