"""Create .venv and install requirements.txt into it: ``python3.12 -m scripts.install``, as ``make setup`` does.

uv installs the packages, because it is many times faster than pip. Where uv cannot be installed or fails, pip does it.
Both check every package against the hashes in requirements.txt. Standard library only.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

from scripts.run_uv import read_pip_config, uv_environment

PROJECT = Path(__file__).resolve().parents[1]
VENV = PROJECT / ".venv"
REQUIREMENTS = PROJECT / "requirements.txt"

_QUIET_PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
#: uv prints such a line for every package, and there are hundreds.
_PACKAGE_LINE = re.compile(r" [-+~] ")
#: What uv and pip print before an error message.
_ERROR_PREFIX = re.compile(r"^(error|cause|caused by): +", re.IGNORECASE)


class InstallationError(Exception):
    """The message says what to do."""


def main() -> int:
    """0 when everything is installed; the time it took is then in ``.venv/.installed``, for the demo's report."""
    began = time.monotonic()
    try:
        python = create_environment(VENV)
        _report("installing the packages of requirements.txt (a few minutes and 7 GB the first time)")
        install(python, REQUIREMENTS)
    except InstallationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    (VENV / ".installed").write_text(f"{time.monotonic() - began:.3f}\n", encoding="ascii")
    return 0


def create_environment(venv: Path) -> Path:
    """The Python of the virtual environment, which is created unless it is complete. pip is installed last."""
    python = venv / "bin" / "python"
    if python.exists() and (venv / "bin" / "pip").exists():
        return python
    _report(f"creating {venv.name}")
    if subprocess.run([sys.executable, "-m", "venv", str(venv)], check=False).returncode != 0:
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
    _report(f"{problem}\ninstalling with pip instead, which takes several minutes longer")
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    if subprocess.run([*command, "--requirement", str(requirements)], check=False).returncode != 0:
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
        answer = subprocess.run([str(python.parent / "uv"), "--version"], capture_output=True, text=True, check=False)
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
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
    except OSError as error:
        return str(error)
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            if line.strip() and not _PACKAGE_LINE.match(line):
                last.append(line.strip())
                _report(f"  {line.rstrip()}")
    if process.returncode == 0:
        return None
    return _ERROR_PREFIX.sub("", last[0]) if last else f"exit status {process.returncode}"


def _report(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
