"""Dead letters as their topic stores them, and the headers of a message that is published again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from include.domain.batch import DeadLetter

#: A message that has been redriven so often is not redriven again: it would come back for ever.
MAX_REDRIVES = 3

REDRIVES = "millrace-redrives"
REDRIVEN_FROM = "millrace-redriven-from"

type Headers = Iterable[tuple[str, bytes | None]]


class StoredLetter(msgspec.Struct, frozen=True):
    """A dead letter, and when it was put into its topic (ms since 1970)."""

    letter: DeadLetter
    put_at: int


class Redrive(NamedTuple):
    """How often a message has been redriven, and the origin of the dead letter that it was last; (0, None) if never."""

    times: int = 0
    origin: str | None = None


NEVER = Redrive()


def redrive_headers(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """The headers of the message that is published again in place of ``letter``."""
    return [(REDRIVES, str(letter.record.redrives + 1).encode()), (REDRIVEN_FROM, letter.origin.encode())]


def parse_redrive(headers: Headers | None) -> Redrive:
    """What the headers of a message of the topic say. Any producer may have written them, so nonsense is ignored."""
    values = dict(headers or ())
    count, origin = values.get(REDRIVES), values.get(REDRIVEN_FROM)
    if not count or not origin or not count.isdigit():
        return NEVER
    return Redrive(min(int(count[:4]), MAX_REDRIVES), origin.decode(errors="replace"))
