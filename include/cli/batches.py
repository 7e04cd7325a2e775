"""``warnings``: what the ledger knows about batches."""

from __future__ import annotations

import argparse
from contextlib import closing

from include import bootstrap
from include.cli.command import Commands, add_command, add_topic_option
from include.settings import Settings


def add_commands(commands: Commands) -> None:
    """Register the command."""
    add_topic_option(
        add_command(commands, "warnings", _show_warnings, "show what validation found unusual about whole batches")
    )


def _show_warnings(settings: Settings, options: argparse.Namespace) -> int:
    with closing(bootstrap.open_warehouse(settings)) as warehouse:
        for batch in warehouse.stats.read_warnings(options.topic):
            for warning in batch.warnings:
                print(f"{options.topic}[{batch.shard}] {batch.start}-{batch.end}: {warning}")
    return 0
