"""``dead-letters``: the messages that are not valid events."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from contextlib import closing

from include import bootstrap
from include.cli.command import Commands, add_command
from include.settings import Settings


def add_commands(commands: Commands) -> None:
    """Register the command."""
    letters = add_command(commands, "dead-letters", _show, "count dead letters by reason")
    letters.add_argument("--reason", help="show only this reason, with the original bytes")
    letters.add_argument("--limit", type=int, default=10, help="the number of messages to show (default 10)")


def _show(settings: Settings, options: argparse.Namespace) -> int:
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
