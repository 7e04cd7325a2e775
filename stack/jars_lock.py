"""Make ``jars.lock`` again: resolve each server's jars, download them, write down their checksums."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from stack.jars import LOCK, ROOTS, Jar

HEADER = "# Every jar of the local servers. Made by: python -m stack lock-jars\n"


def write_lock(say: Callable[[str], None] = print, path: Path = LOCK) -> None:
    """Replace the lock file. Takes a minute or two and a network."""
    with tempfile.TemporaryDirectory(prefix="millrace-lock-") as folder, ProcessPoolExecutor(len(ROOTS)) as pool:
        tasks = [pool.submit(_resolve, server, coordinates, folder) for server, coordinates in ROOTS.items()]
        jars = sorted({jar for task in tasks for jar in task.result()})
    path.write_text(HEADER + "".join(f"{jar.line}\n" for jar in jars), encoding="utf-8")
    say(f"{len(jars)} jars written to {path}")


def _resolve(server: str, coordinates: tuple[str, ...], folder: str) -> list[Jar]:
    from jgo.maven import MavenContext, PythonResolver

    context = MavenContext(resolver=PythonResolver(), repo_cache=Path(folder) / server, timeout=60)
    found: dict[tuple[str, str, str], Jar] = {}
    # One root at a time: resolved together, the versions that one manages would be forced on the other.
    for coordinate in coordinates:
        inputs, transitive = context.resolver.resolve([context.create_dependency(coordinate)])
        for dependency in [*inputs, *transitive]:
            name = (dependency.groupId, dependency.artifactId, dependency.classifier)
            wanted = dependency.type == "jar" and dependency.scope in (None, "compile", "runtime")
            if wanted and name not in found:
                found[name] = _jar(server, dependency)
    return list(found.values())


def _jar(server: str, dependency: Any) -> Jar:
    content = Path(str(dependency.artifact.resolve())).read_bytes()
    return Jar(
        server,
        dependency.groupId,
        dependency.artifactId,
        dependency.version,
        dependency.classifier,
        hashlib.sha256(content).hexdigest(),
    )
