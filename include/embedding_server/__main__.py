"""``python -m include.embedding_server``: listen at once, load the model in the background, serve until SIGTERM."""

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
from include.embedding_server.load import load_engine
from include.embedding_server.settings import ServerSettings
from include.errors import ConfigurationError

#: mallopt's parameter numbers, from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MALLOC_THRESHOLD = 64 * 1024 * 1024

_LOG = logging.getLogger("millrace.embed")


def main() -> int:
    """Returns the exit code: 0 after a signal, 1 if the server fails, 2 for an invalid setting."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    # The model is a local folder: the library must not look anything up on the network.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        settings = ServerSettings.from_environment(os.environ)
        _raise_malloc_thresholds()
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
    loading = loop.run_in_executor(None, _load_and_warm_up, settings)
    await asyncio.wait((serving, loading), return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
        # The loading thread cannot be stopped in the middle of an import; the process can.
        os._exit(0)
    try:
        app.start(await loading)
    except ConfigurationError:
        stop()
        await serving
        raise
    _LOG.info("serving %s on %s:%d", settings.model, settings.host, settings.port)
    await serving
    app.close()
    return 0


def _load_and_warm_up(settings: ServerSettings) -> Engine:
    started = time.monotonic()
    engine = load_engine(settings)
    engine.embed(engine.tokenize(["warm-up"]))
    _LOG.info("loaded in %.1f s: %s", time.monotonic() - started, engine.description)
    return engine


def _raise_malloc_thresholds() -> None:
    """Let malloc keep a batch's memory for the next one: getting it from the system again costs 10 % of the time."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # not glibc
    mallopt(_M_MMAP_THRESHOLD, _MALLOC_THRESHOLD)
    mallopt(_M_TRIM_THRESHOLD, _MALLOC_THRESHOLD)


if __name__ == "__main__":
    sys.exit(main())
