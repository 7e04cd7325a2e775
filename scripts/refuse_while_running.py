"""Exit non-zero while servers run on this virtual environment: ``python -m scripts.refuse_while_running``.

``make clean`` deletes the environment. Servers that still run on it could then no longer be stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

#: Every stack has one supervisor. It is started as: PYTHON -m supervisor.supervisord -n -c HOME/run/supervisord.conf
_SUPERVISOR = ("-m", "supervisor.supervisord")


def find_homes(venv: Path, commands: Iterable[Sequence[str]]) -> set[Path]:
    """The homes of the stacks whose supervisor, one of these commands, runs on this environment."""
    bin_folder = (venv / "bin").resolve()
    return {
        Path(command[-1]).parents[1]
        for command in commands
        if tuple(command[1:3]) == _SUPERVISOR and Path(command[0]).parent.resolve() == bin_folder
    }


def _running_commands() -> Iterator[Sequence[str]]:
    try:
        import psutil
    except ImportError:
        return  # the environment is incomplete: nothing was ever started on it
    for process in psutil.process_iter(["cmdline"]):
        yield process.info["cmdline"] or []


def main() -> int:
    """0 if nothing runs on the environment of this Python."""
    homes = find_homes(Path(sys.prefix), _running_commands())
    for home in sorted(homes):
        print(f"error: servers are running; stop them first: MILLRACE_HOME={home} make down", file=sys.stderr)
    return 1 if homes else 0


if __name__ == "__main__":
    sys.exit(main())
