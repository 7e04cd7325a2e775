"""``maintain``: count, and delete, what has become too old."""

from __future__ import annotations

import argparse
import sys

from include.cli.command import Commands, add_command
from include.maintenance import open_kinds
from include.pipeline.maintain import maintain, select_kinds
from include.settings import Settings


def add_commands(commands: Commands) -> None:
    """Register the command."""
    parser = add_command(commands, "maintain", _maintain, "count what has become too old, and with --apply delete it")
    parser.add_argument("--apply", action="store_true", help="delete it (default: only count)")
    parser.add_argument("--only", default="", metavar="KIND,…", help="only these kinds (default: all)")


def _maintain(settings: Settings, options: argparse.Namespace) -> int:
    with open_kinds(settings) as kinds:
        chosen = select_kinds(kinds, options.only.split(",")) if options.only else kinds
        counts = maintain(chosen, apply=options.apply, progress=_show_progress)
    print(f"{'kind':<14}{'older than':>12}{'deleted' if options.apply else 'found':>12}  what")
    for kind in chosen:
        age = f"{kind.days} days" if kind.days else "kept"
        print(f"{kind.name:<14}{age:>12}{counts.get(kind.name, 0):>12,}  {kind.what}")
    if not options.apply and any(counts.values()):
        print("nothing was deleted: run it again with --apply", file=sys.stderr)
    return 0


def _show_progress(kind: str, deleted: int) -> None:
    print(f"{kind}: {deleted:,}", file=sys.stderr, flush=True)
