"""``python -m demo.publish_file FILE``: feed a file of events into a running stack.

Every line is appended: the same file twice is there twice, and the pipeline finds that each event is a repeat.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from demo.publish import publish
from demo.routing import Router
from demo.screen import Screen
from demo.source import FileLines
from include.domain.event import InvalidEventError, decode
from include.errors import ConfigurationError, MillraceError, TransientError
from include.settings import KafkaSettings
from stack.config import LocalConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every line is acknowledged, 1 with a message that says what to do, 130 when interrupted."""
    given = _parser().parse_args(arguments)
    screen = Screen()
    try:
        source = FileLines(Path(given.file).expanduser())
        lines = readable_lines(source)
        config = LocalConfig.from_env(os.environ)
        bootstrap = os.environ.get("MILLRACE_KAFKA_BOOTSTRAP") or config.address("kafka")
        topic = os.environ.get("MILLRACE_TOPIC") or KafkaSettings.topic
        _publish(source, lines, KafkaSettings(bootstrap, topic=topic), config.shards, screen)
        return 0
    except MillraceError as error:
        screen.done()
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        screen.say("interrupted: some lines are published, and publishing them again does no harm")
        return 130


def readable_lines(source: FileLines) -> int:
    """How many lines the file has, read to its end before the first is published.

    Raises ``ConfigurationError`` when it cannot be read, or when no line has the shape of an event.
    """
    count, good = 0, False
    for line in source.lines():
        count += 1
        good = good or _is_event(line)
    if not good:
        raise ConfigurationError(f"{source.label} has no event in {count:,} lines: see README.md for what an event is")
    return count


def _is_event(line: bytes) -> bool:
    try:
        decode(line)
    except InvalidEventError:
        return False
    return True


def _publish(source: FileLines, lines: int, settings: KafkaSettings, shards: int, screen: Screen) -> None:
    from include.sources.kafka_producer import Publisher
    from include.sources.kafka_topics import ensure_topics

    try:
        ensure_topics(settings, shards)
    except TransientError as error:
        raise ConfigurationError(
            f"no Kafka answers at {settings.bootstrap} ({error}): start the stack with make demo or make up, "
            "or set MILLRACE_KAFKA_BOOTSTRAP"
        ) from error
    publisher = Publisher(settings)
    try:
        publish(
            source.lines(),
            Router(shards),
            publisher,
            [0] * shards,
            note=lambda done: screen.progress(f"published {done:,} of {lines:,}"),
        )
    finally:
        publisher.close()
    screen.say(f"published {lines:,} lines of {source.label} to {settings.topic}, in {shards} shards")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo.publish_file", description=__doc__)
    parser.add_argument("file", metavar="FILE", help="a .jsonl or .jsonl.gz of events")
    return parser


if __name__ == "__main__":
    sys.exit(main())
