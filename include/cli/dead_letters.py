"""``dead-letters``: look at the messages that were rejected, and publish them again once their cause is gone."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from include import bootstrap
from include.cli.command import Commands, add_command
from include.domain.letters import MAX_REDRIVES, StoredLetter
from include.domain.reasons import parse_reason
from include.errors import ConfigurationError
from include.pipeline.redrive import RedriveCounts, Selection, redrive
from include.settings import Settings

_PROGRESS_S = 5.0


def add_commands(commands: Commands) -> None:
    """Register the group of commands."""
    parser = commands.add_parser("dead-letters", help="look at rejected messages, and publish them again")
    actions: Commands = parser.add_subparsers(dest="action", required=True)
    _add_selection(add_command(actions, "list", _list, "count dead letters by reason and shard"))
    show = add_command(actions, "show", _show, "show one dead letter")
    show.add_argument("--shard", type=int, required=True, help="the shard of the message")
    show.add_argument("--offset", type=int, required=True, help="the offset of the message in its shard")
    show.add_argument("--content", action="store_true", help="also print its key and its bytes, which may be private")
    export = add_command(actions, "export", _export, "write dead letters to a private file, one JSON object a line")
    _add_selection(export)
    export.add_argument("--file", type=Path, required=True, help="the file to create; only its owner can read it")
    redrive_parser = add_command(actions, "redrive", _redrive, "publish the messages of dead letters again, each once")
    _add_selection(redrive_parser)
    redrive_parser.add_argument("--dry-run", action="store_true", help="only count them")
    redrive_parser.add_argument("--again", action="store_true", help="also those that were redriven before")


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", type=_reason, help="only letters with this reason")
    parser.add_argument("--shard", type=int, help="only messages of this shard")
    parser.add_argument("--offset", type=int, help="only the message with this offset; needs --shard")
    parser.add_argument("--since", type=_time, help="only letters put at or after this time (2026-11-25T09:00:00Z)")
    parser.add_argument("--until", type=_time, help="only letters put before this time")


def _reason(text: str) -> str:
    try:
        return parse_reason(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a reason: docs/events.md lists them") from None


def _time(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time with an offset, such as 2026-11-25T09:00:00Z")
    return round(moment.timestamp() * 1000)


def _selection(options: argparse.Namespace) -> Selection:
    if options.offset is not None and options.shard is None:
        raise ConfigurationError("--offset counts within a shard: add --shard")
    return Selection(options.reason, options.shard, options.offset, options.since, options.until)


@dataclass
class _Group:
    """The letters of one reason and shard, and when the first and the last of them was put."""

    first: int
    last: int
    letters: int = 0


def _list(settings: Settings, options: argparse.Namespace) -> int:
    groups: dict[tuple[str, int], _Group] = {}
    total, selection, progress = 0, _selection(options), _Progress()
    with closing(bootstrap.open_dead_letters(settings)) as letters:
        for total, stored in enumerate(selection.select(letters), start=1):
            key = stored.letter.reason, stored.letter.record.shard
            group = groups.setdefault(key, _Group(stored.put_at, stored.put_at))
            group.letters += 1
            group.first, group.last = min(group.first, stored.put_at), max(group.last, stored.put_at)
            progress("letters read", total)
    if groups:
        print(f"{'letters':>10}  {'shard':>5}  {'first':<20}  {'last':<20}  reason")
    for (reason, shard), group in sorted(groups.items(), key=lambda pair: (-pair[1].letters, pair[0])):
        print(f"{group.letters:>10,}  {shard:>5}  {_show_time(group.first)}  {_show_time(group.last)}  {reason}")
    print(f"{total:>10,}  dead letters in {settings.kafka.dead_letter_topic}", file=sys.stderr)
    return 0


def _show(settings: Settings, options: argparse.Namespace) -> int:
    selection = Selection(shard=options.shard, offset=options.offset)
    with closing(bootstrap.open_dead_letters(settings)) as letters:
        stored = next(selection.select(letters), None)
    if stored is None:
        raise ConfigurationError(
            f"no dead letter has shard {options.shard} and offset {options.offset}: "
            "python -m include.cli dead-letters list shows which shards have any"
        )
    record = _to_json(stored)
    if not options.content:
        content = stored.letter.record.value
        for name in ("key", "key_base64", "value", "value_base64"):
            record.pop(name, None)
        record["bytes"] = 0 if content is None else len(content)
    for name, value in record.items():
        print(f"{name}: {value}")
    return 0


def _export(settings: Settings, options: argparse.Namespace) -> int:
    written, selection, progress = 0, _selection(options), _Progress()
    with closing(bootstrap.open_dead_letters(settings)) as letters, _create(options.file) as file:
        for written, stored in enumerate(selection.select(letters), start=1):
            file.write(msgspec.json.encode(_to_json(stored)) + b"\n")
            progress("letters written", written)
    print(f"wrote {written:,} dead letters to {options.file}")
    return 0


@contextmanager
def _create(path: Path) -> Iterator[BinaryIO]:
    """A new file that only its owner can read; it appears under its name once it is complete."""
    partial = path.with_name(path.name + ".partial")
    try:
        if path.exists():
            raise FileExistsError
        file = os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except FileExistsError:
        raise ConfigurationError(f"{path} (or {partial.name}) exists: name another file, or delete it") from None
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from None
    try:
        with file:
            yield file
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def _redrive(settings: Settings, options: argparse.Namespace) -> int:
    selection, topic = _selection(options), settings.kafka.topic
    with bootstrap.open_redrive_ports(settings) as ports:
        counts = redrive(topic, selection, ports, _Progress(), again=options.again, dry_run=options.dry_run)
    _report(counts, topic, dry_run=options.dry_run)
    return 1 if counts.exhausted or counts.foreign else 0


def _report(counts: RedriveCounts, topic: str, *, dry_run: bool) -> None:
    print(f"{'would redrive' if dry_run else 'redrove'} {counts.redriven:,} messages to {topic}")
    if counts.earlier:
        print(f"left out {counts.earlier:,}, which were redriven before: --again redrives them too")
    if counts.exhausted:
        print(
            f"refused {counts.exhausted:,}, which were redriven {MAX_REDRIVES} times and came back each time: correct "
            "them, and publish them as new messages",
            file=sys.stderr,
        )
    if counts.foreign:
        print(f"left out {counts.foreign:,}, whose topic or partition is not in {topic}", file=sys.stderr)


def _to_json(stored: StoredLetter) -> dict[str, Any]:
    letter, record = stored.letter, stored.letter.record
    return {
        "origin": letter.origin,
        "topic": letter.topic,
        "shard": record.shard,
        "offset": record.offset,
        "reason": str(letter.reason),
        "published_at": _show_time(record.published_at),
        "put_at": _show_time(stored.put_at),
        "redrives": record.redrives,
        **_content("key", record.key),
        **_content("value", record.value),
    }


def _content(name: str, content: bytes | None) -> dict[str, Any]:
    """Text if it is UTF-8; else the bytes, which msgspec writes as base64."""
    try:
        return {name: None if content is None else content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": content}


def _show_time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Progress:
    """Prints the progress every few seconds."""

    def __init__(self) -> None:
        self._shown = time.monotonic()

    def __call__(self, what: str, done: int) -> None:
        now = time.monotonic()
        if now - self._shown >= _PROGRESS_S:
            self._shown = now
            print(f"{done:,} {what}", file=sys.stderr, flush=True)
