"""A JVM inside this process, and a main thread that waits to be told to end."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

type Settings = dict[str, Any]


def read_settings() -> Settings:
    """The file that ``stack.java.write_settings`` wrote; its path is the only argument."""
    settings: Settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return settings


def start_jvm(settings: Settings) -> None:
    import jpype

    # -Xrs leaves SIGTERM to Python: the JVM's own handler would end the process without closing the store.
    options = ["-Xrs", *settings["options"]]
    jpype.startJVM(settings["library"], *options, classpath=settings["class_path"], convertStrings=True)


def serve_until_told(close: Callable[[], None]) -> None:
    """Wait for SIGTERM or SIGINT, close the store, leave. Threads of the JVM do not hold the process up."""
    told = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: told.set())
    while not told.wait(1.0):
        pass
    close()
    sys.stdout.flush()
    os._exit(0)
