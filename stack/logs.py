"""Shows the servers' logs."""

from __future__ import annotations

import time
from pathlib import Path

from include.errors import ConfigurationError
from stack.config import LocalConfig
from stack.server import Report, tail

_BLOCK = 1 << 16


def show_logs(config: LocalConfig, server: str | None, lines: int, follow: bool, report: Report = print) -> None:
    """Report the last lines of one log, or of all. With ``follow``, continue with new lines until interrupted."""
    files = _find_files(config, server)
    positions = {file: file.stat().st_size for file in files}
    for file in files:
        report(f"==> {file} <==")
        if lines > 0:
            report(tail(file, lines))
    while follow:
        time.sleep(0.3)
        for file in files:
            positions[file] = _report_new_lines(file, positions[file], report)


def _find_files(config: LocalConfig, server: str | None) -> list[Path]:
    files = sorted(config.logs.glob("*.log"))
    if server is None and files:
        return files
    if server is not None and config.log(server) in files:
        return [config.log(server)]
    if not files:
        raise ConfigurationError(f"there are no logs in {config.logs} yet: start the servers with python -m stack up")
    names = ", ".join(file.stem for file in files)
    raise ConfigurationError(f"no log for {server!r} in {config.logs}; choose from: {names}")


def _report_new_lines(file: Path, position: int, report: Report) -> int:
    """Report the complete lines written since ``position``. Returns the position to continue from."""
    size = file.stat().st_size if file.exists() else 0
    if size < position:
        # The file was rotated: start at the beginning of the new one.
        position = 0
    if size == position:
        return position
    with file.open("rb") as source:
        source.seek(position)
        block = source.read(_BLOCK)
    complete = block[: block.rfind(b"\n") + 1] or (block if len(block) == _BLOCK else b"")
    for line in complete.decode("utf-8", errors="replace").splitlines():
        report(f"{file.stem}: {line}")
    return position + len(complete)
