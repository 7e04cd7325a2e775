"""``python -m include.cli``: commands for operators of a running system, local or not."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from include.cli import batches, dead_letters, maintain, ranking, rebuild, reconcile, topics
from include.cli.command import Commands
from include.errors import MillraceError
from include.settings import EnvironmentSettings

_GROUPS = (dead_letters, batches, topics, reconcile, rebuild, maintain, ranking)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 on success, 1 with a message that names what to change."""
    options = _parser().parse_args(arguments)
    try:
        result: int = options.run(EnvironmentSettings(os.environ), options)
    except MillraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m include.cli", description=__doc__)
    commands: Commands = parser.add_subparsers(dest="command", required=True)
    for group in _GROUPS:
        group.add_commands(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
