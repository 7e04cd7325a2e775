"""``python -m include.serving``: start the reader. It needs no Redis to start; SIGTERM ends it cleanly."""

from __future__ import annotations

import os
import sys

from granian.constants import HTTPModes, Interfaces, Loops
from granian.log import LogLevels
from granian.server import Server

from include.errors import ConfigurationError
from include.serving.address import Address
from include.serving.settings import ReaderSettings


def main() -> int:
    """Serve until a signal; 2 if a setting is missing or wrong."""
    try:
        settings = ReaderSettings.from_environment(os.environ)
        Address.from_url(settings.redis_url)
    except ConfigurationError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    Server(
        "include.serving.composition:application",
        factory=True,
        address=settings.host,
        port=settings.port,
        workers=settings.workers,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        loop=Loops.uvloop,
        log_level=LogLevels.warning,
        workers_kill_timeout=5,
    ).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
