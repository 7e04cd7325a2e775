"""``skip-lost`` and ``restart-topic``: go on when the topic no longer has what the ledger expects."""

from __future__ import annotations

import argparse
from contextlib import closing

from include import bootstrap
from include.cli.command import Commands, add_command, add_topic_option
from include.settings import Settings


def add_commands(commands: Commands) -> None:
    """Register the commands."""
    skip = add_command(
        commands, "skip-lost", _skip_lost, "go on after offsets that the topic deleted before they were read"
    )
    skip.add_argument("--shard", type=int, required=True, help="the shard whose runs fail")
    skip.add_argument("--yes", action="store_true", help="do it; without this only show what would be given up")
    restart = add_command(commands, "restart-topic", _restart_topic, "read a recreated topic from its first offset")
    add_topic_option(restart)
    restart.add_argument("--yes", action="store_true", help="do it; without this only show what would happen")


def _skip_lost(settings: Settings, options: argparse.Namespace) -> int:
    topic, shard = settings.kafka.topic, options.shard
    with (
        closing(bootstrap.open_source(settings)) as source,
        closing(bootstrap.open_warehouse(settings)) as warehouse,
    ):
        low = source.read_offsets(shard).low
        lost = warehouse.ledger.find_lost(topic, shard, low)
        if lost is None:
            print(f"{topic}[{shard}] has lost nothing: it begins at {low}")
            return 0
        messages = f"offsets {lost.start} to {lost.end} of {topic}[{shard}] ({lost.size:,} messages)"
        if not options.yes:
            print(f"would give up {messages}; pause ingest_shard_{shard:03d}, then run this again with --yes")
            return 1
        warehouse.ledger.skip_lost(topic, shard, low)
    print(f"gave up {messages}; the next run reads from {low}")
    return 0


def _restart_topic(settings: Settings, options: argparse.Namespace) -> int:
    topic = options.topic
    if not options.yes:
        print(
            f"would forget the positions of {topic}, and read it from its first offset; the stores stay as they are. "
            "Pause every ingest DAG, then run this again with --yes"
        )
        return 1
    with closing(bootstrap.open_warehouse(settings)) as warehouse:
        batches = warehouse.ledger.forget_topic(topic)
    print(f"forgot {batches:,} batches of {topic}; the next runs read it from its first offset")
    return 0
