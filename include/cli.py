"""``python -m include.cli``: what an operator asks of a running system, local or not."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence

from include import bootstrap
from include.errors import MillraceError
from include.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when done, 1 with a message that names what to change."""
    options = _parser().parse_args(arguments)
    try:
        settings = Settings.from_environment(os.environ)
        return _COMMANDS[options.command](settings, options)
    except MillraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m include.cli", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    letters = commands.add_parser("dead-letters", help="show the messages that were no events, by reason")
    letters.add_argument("--reason", help="only this reason, with the original bytes")
    letters.add_argument("--limit", type=int, default=10, help="how many messages to show (10)")
    commands.add_parser("warnings", help="show what validation found odd about whole batches")
    return parser


def _dead_letters(settings: Settings, options: argparse.Namespace) -> int:
    counts: Counter[str] = Counter()
    with bootstrap.opened(bootstrap.dead_letters(settings.kafka)) as (letters,):
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


def _warnings(settings: Settings, _: argparse.Namespace) -> int:
    with bootstrap.opened(bootstrap.warehouse(settings.warehouse)) as (warehouse,):
        for batch in warehouse.inventory.warnings(settings.kafka.topic):
            for warning in batch.warnings:
                print(f"{settings.kafka.topic}[{batch.shard}] {batch.start}-{batch.end}: {warning}")
    return 0


_COMMANDS = {"dead-letters": _dead_letters, "warnings": _warnings}

if __name__ == "__main__":
    sys.exit(main())
