"""``rebuild``: fill a store that was lost from one that has every event."""

from __future__ import annotations

import argparse
import sys
import time

from include import bootstrap
from include.bootstrap import SINKS
from include.cli.command import Commands, add_command
from include.errors import ConfigurationError
from include.pipeline.rebuild import Position, rebuild
from include.reconciliation import FULL_STORES, open_contents, open_write_ports
from include.settings import Settings

_PROGRESS_S = 10.0


def add_commands(commands: Commands) -> None:
    """Register the command."""
    parser = add_command(commands, "rebuild", _rebuild, "write the events of one store to others that were lost")
    parser.add_argument("--from", dest="source", choices=FULL_STORES, required=True, help="the store to read")
    parser.add_argument("--to", required=True, help="the stores to write, separated by commas")
    parser.add_argument("--shard", type=int, help="only the events of this shard's users")
    parser.add_argument("--after", help="go on after this event id (default: where the last rebuild stopped)")


def _rebuild(settings: Settings, options: argparse.Namespace) -> int:
    targets, shards = options.to.split(","), settings.pipeline.shards
    wrong = [name for name in targets if name not in SINKS or name == options.source]
    if wrong:
        allowed = ",".join(name for name in SINKS if name != options.source)
        raise ConfigurationError(f"--to {','.join(wrong)}: use one or more of {allowed}")
    if options.shard is not None and not 0 <= options.shard < shards:
        raise ConfigurationError(f"--shard {options.shard}: use 0 to {shards - 1}, as MILLRACE_SHARDS is {shards}")
    of_shard = "" if options.shard is None else f"-{options.shard:03d}"
    name = f"{options.source}-{'-'.join(sorted(targets))}{of_shard}"
    position = Position(bootstrap.open_files(settings), name, options.after)
    if start := position.read():
        print(f"goes on after event {start}", file=sys.stderr)
    with open_contents(options.source, settings) as contents, open_write_ports(targets, settings) as ports:
        written = rebuild(
            contents,
            targets,
            ports,
            position,
            select_shard=None if options.shard is None else (options.shard, shards),
            progress=_Rate(time.monotonic()),
        )
    print(f"{written:,} events of {options.source} written to {', '.join(targets)}")
    return 0


class _Rate:
    """Prints the progress every few seconds."""

    def __init__(self, started: float) -> None:
        self._started = self._shown = started

    def __call__(self, events: int, last: str) -> None:
        now = time.monotonic()
        if now - self._shown >= _PROGRESS_S:
            self._shown = now
            rate = events / (now - self._started)
            print(f"{events:,} events, {rate:,.0f}/s, last {last}", file=sys.stderr, flush=True)
