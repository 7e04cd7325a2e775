"""``python -m include.serving`` starts the reader, whether or not Redis is up. SIGTERM shuts it down cleanly."""

from __future__ import annotations

import os
import sys

from granian.constants import HTTPModes, Interfaces, Loops
from granian.log import LogLevels
from granian.server import Server

from include.errors import ConfigurationError
from include.serving.address import RedisAddress
from include.serving.settings import ReaderSettings
from include.serving.shared_metrics import share_metrics


def main() -> int:
    """Serve until a signal arrives. Returns the exit status: 2 if a setting is missing or invalid."""
    try:
        settings = ReaderSettings.from_environment(os.environ)
        RedisAddress.from_url(settings.redis_url)
    except ConfigurationError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    server = Server(
        "include.serving.composition:create_app",
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
    )
    with share_metrics(settings.workers):
        server.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
