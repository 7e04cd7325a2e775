"""The servers' logs on the screen."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from include.errors import ConfigurationError
from stack.config import LocalConfig
from stack.server import tail

_BLOCK = 1 << 16


def show(config: LocalConfig, server: str | None, lines: int, follow: bool, say: Callable[[str], None] = print) -> None:
    """The last lines of one log or of all. With ``follow`` it goes on until it is interrupted."""
    files = _files(config, server)
    places = {file: file.stat().st_size for file in files}
    for file in files:
        say(f"==> {file} <==")
        if lines > 0:
            say(tail(file, lines))
    while follow:
        time.sleep(0.3)
        for file in files:
            places[file] = _say_news(file, places[file], say)


def _files(config: LocalConfig, server: str | None) -> list[Path]:
    known = sorted(config.logs.glob("*.log"))
    if server is None and known:
        return known
    if server is not None and config.log(server) in known:
        return [config.log(server)]
    names = ", ".join(file.stem for file in known) or "none yet: start the servers with python -m stack up"
    raise ConfigurationError(f"there is no log {server or ''} in {config.logs}; there are: {names}")


def _say_news(file: Path, place: int, say: Callable[[str], None]) -> int:
    """Say the whole lines written since ``place``; the place to go on from."""
    size = file.stat().st_size if file.exists() else 0
    if size < place:
        # The file was rotated: begin with the new one.
        place = 0
    if size == place:
        return place
    with file.open("rb") as source:
        source.seek(place)
        block = source.read(_BLOCK)
    whole = block[: block.rfind(b"\n") + 1] or (block if len(block) == _BLOCK else b"")
    for line in whole.decode("utf-8", errors="replace").splitlines():
        say(f"{file.stem}: {line}")
    return place + len(whole)
