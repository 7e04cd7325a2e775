"""Publish a file of events to the running stack.

Every line is appended to the topic. If you publish a file twice, the pipeline counts the second copy as duplicates.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from demo.publishing import publish_lines
from demo.routing import Router
from demo.screen import Screen
from demo.source import FileLines
from include.domain.event import InvalidEventError, decode
from include.errors import ConfigurationError, MillraceError, TransientError
from include.settings import EnvironmentSettings, KafkaSettings
from stack.installation import read_config


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if every line is acknowledged, 1 after printing an error, 130 if interrupted."""
    options = _build_parser().parse_args(arguments)
    screen = Screen()
    try:
        source = FileLines(Path(options.file).expanduser())
        line_count = count_lines(source)
        config = read_config(os.environ)
        bootstrap = os.environ.get("MILLRACE_KAFKA_BOOTSTRAP") or config.address("kafka")
        environment = {**os.environ, "MILLRACE_KAFKA_BOOTSTRAP": bootstrap}
        _publish(source, line_count, EnvironmentSettings(environment).kafka, config.shards, screen)
        return 0
    except MillraceError as error:
        screen.end_progress()
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        screen.print("interrupted: some lines have been published; it is safe to publish the file again")
        return 130


def count_lines(source: FileLines) -> int:
    """Read the whole file before anything is published. Returns the number of lines.

    Raises ``ConfigurationError`` if the file cannot be read, or if no line has the shape of an event.
    """
    count, has_event = 0, False
    for line in source.lines():
        count += 1
        has_event = has_event or _is_event(line)
    if not has_event:
        raise ConfigurationError(
            f"{source.label} has no events in {count:,} lines: see docs/events.md for the event format"
        )
    return count


def _is_event(line: bytes) -> bool:
    try:
        decode(line)
    except InvalidEventError:
        return False
    return True


def _publish(source: FileLines, line_count: int, settings: KafkaSettings, shards: int, screen: Screen) -> None:
    from include.sources.kafka_producer import Publisher
    from include.sources.kafka_topics import ensure_topics

    try:
        ensure_topics(settings, shards)
    except TransientError as error:
        raise ConfigurationError(
            f"cannot reach Kafka at {settings.bootstrap} ({error}): start the stack with make demo or make up, "
            "or set MILLRACE_KAFKA_BOOTSTRAP"
        ) from error
    publisher = Publisher(settings)
    try:
        publish_lines(
            source.lines(),
            Router(shards),
            publisher,
            [0] * shards,
            on_progress=lambda done: screen.progress(f"published {done:,} of {line_count:,} lines"),
        )
    finally:
        publisher.close()
    screen.print(f"published {line_count:,} lines from {source.label} to {settings.topic} in {shards} shards")


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo.publish", description=__doc__)
    parser.add_argument("file", metavar="FILE", help="events as .jsonl or .jsonl.gz")
    return parser


if __name__ == "__main__":
    sys.exit(main())
