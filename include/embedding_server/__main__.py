"""``python -m include.embedding_server``: listen at once, load the model beside it, serve until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable

import uvloop
from granian.constants import Interfaces
from granian.server.embed import Server

from include.embedding_server.app import App
from include.embedding_server.engine import Engine
from include.embedding_server.load import load
from include.embedding_server.settings import ServerSettings
from include.errors import ConfigurationError

#: mallopt's names for what is kept of freed memory and what is taken from the system piece by piece.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = 64 * 1024 * 1024

_LOG = logging.getLogger("millrace.embed")


def main() -> int:
    """The exit code: 0 after a signal, 1 when the model could not be loaded, 2 for a wrong setting."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    # The model is a folder on this machine: nothing is looked up.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        settings = ServerSettings.from_environment(os.environ)
        _reuse_memory()
        return uvloop.run(_serve(settings))
    except (ConfigurationError, OSError) as exc:
        _LOG.error("%s", exc)
        return 2


async def _serve(settings: ServerSettings) -> int:
    app = App(settings)
    server = Server(
        app,
        settings.host,
        settings.port,
        interface=Interfaces.ASGINL,
        websockets=False,
        log_enabled=False,
    )
    loop = asyncio.get_running_loop()
    stop: Callable[[], None] = server.stop
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    serving = loop.create_task(server.serve())
    loading = loop.run_in_executor(None, _load, settings)
    await asyncio.wait((serving, loading), return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
        # A thread inside an import cannot be ended; the process can.
        os._exit(0)
    try:
        app.ready(await loading)
    except ConfigurationError:
        stop()
        await serving
        raise
    _LOG.info("serving %s on %s:%d", settings.model, settings.host, settings.port)
    await serving
    app.close()
    return 0


def _load(settings: ServerSettings) -> Engine:
    began = time.monotonic()
    loaded = load(settings)
    loaded.embed(loaded.tokenize(["ready?"]))
    _LOG.info("loaded in %.1f s: %s", time.monotonic() - began, loaded.description)
    return loaded


def _reuse_memory() -> None:
    """Let the C library keep what a batch frees for the next one: getting it anew costs a tenth of the time."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # not glibc
    mallopt(_M_MMAP_THRESHOLD, _KEPT)
    mallopt(_M_TRIM_THRESHOLD, _KEPT)


if __name__ == "__main__":
    sys.exit(main())
