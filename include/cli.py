"""``python -m include.cli``: queries for operators of a running system, local or not."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing

from include import bootstrap
from include.errors import MillraceError
from include.settings import EnvironmentSettings, Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 on success, 1 with a message that names what to change."""
    options = _parser().parse_args(arguments)
    try:
        return _COMMANDS[options.command](EnvironmentSettings(os.environ), options)
    except MillraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m include.cli", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    letters = commands.add_parser("dead-letters", help="count dead letters by reason")
    letters.add_argument("--reason", help="show only this reason, with the original bytes")
    letters.add_argument("--limit", type=int, default=10, help="the number of messages to show (default 10)")
    warnings = commands.add_parser("warnings", help="show what validation found unusual about whole batches")
    topic = EnvironmentSettings(os.environ).topic
    topic_help = f"the topic of events (MILLRACE_TOPIC, now {topic})"
    warnings.add_argument("--topic", default=topic, help=topic_help)
    skip = commands.add_parser("skip-lost", help="go on after offsets that the topic deleted before they were read")
    skip.add_argument("--shard", type=int, required=True, help="the shard whose runs fail")
    skip.add_argument("--yes", action="store_true", help="do it; without this only show what would be given up")
    restart = commands.add_parser("restart-topic", help="read a recreated topic from its first offset")
    restart.add_argument("--topic", default=topic, help=topic_help)
    restart.add_argument("--yes", action="store_true", help="do it; without this only show what would happen")
    return parser


def _show_dead_letters(settings: Settings, options: argparse.Namespace) -> int:
    counts: Counter[str] = Counter()
    with closing(bootstrap.open_dead_letters(settings)) as letters:
        for letter in letters.read():
            counts[letter.reason] += 1
            if letter.reason == options.reason and counts[letter.reason] <= options.limit:
                original = (letter.record.value or b"").decode(errors="backslashreplace")
                print(f"{letter.origin}\t{letter.reason}\t{original}")
    if options.reason is None:
        for reason, number in counts.most_common():
            print(f"{number:>10,}  {reason}")
    print(f"{sum(counts.values()):>10,}  dead letters in {settings.kafka.dead_letter_topic}", file=sys.stderr)
    return 0


def _show_warnings(settings: Settings, options: argparse.Namespace) -> int:
    with closing(bootstrap.open_warehouse(settings)) as warehouse:
        for batch in warehouse.stats.read_warnings(options.topic):
            for warning in batch.warnings:
                print(f"{options.topic}[{batch.shard}] {batch.start}-{batch.end}: {warning}")
    return 0


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


_COMMANDS = {
    "dead-letters": _show_dead_letters,
    "warnings": _show_warnings,
    "skip-lost": _skip_lost,
    "restart-topic": _restart_topic,
}

if __name__ == "__main__":
    sys.exit(main())
