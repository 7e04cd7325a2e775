"""Hosts a JVM in this process until it is asked to stop."""

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
    """The content of the file that ``stack.java.write_settings`` wrote; its path is the only argument."""
    settings: Settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return settings


def start_jvm(settings: Settings) -> None:
    """Start the JVM with the options and class path of the settings."""
    import jpype

    # -Xrs leaves SIGTERM to Python: the JVM's own handler would exit without closing the store.
    options = ["-Xrs", *settings["options"]]
    jpype.startJVM(settings["library"], *options, classpath=settings["class_path"], convertStrings=True)


def serve_until_stopped(close: Callable[[], None]) -> None:
    """Wait for SIGTERM or SIGINT, close the store and exit, without waiting for the threads of the JVM."""
    stop_requested = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop_requested.set())
    while not stop_requested.wait(1.0):
        pass
    close()
    sys.stdout.flush()
    os._exit(0)
