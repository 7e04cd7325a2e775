"""Where the demo's lines come from: the shop, or a file. Both can be read again and give the same lines."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from demo.shop import Shop
from include.errors import ConfigurationError

_GZIP = b"\x1f\x8b"
#: Kafka takes messages of up to 1 MB with their headers, and so do the stores behind it.
LONGEST_LINE = 900_000


class Lines(Protocol):
    """Lines of events. ``label`` names them for a person."""

    @property
    def label(self) -> str: ...
    def lines(self) -> Iterator[bytes]:
        """Each line without its end, from the first on; every call begins anew."""


@dataclass(frozen=True)
class ShopLines:
    """What the shop sold before ``published_at`` (ms since 1970)."""

    shop: Shop
    published_at: int

    @property
    def label(self) -> str:
        return f"a small shop (seed {self.shop.seed}, {self.shop.users:,} users, {self.shop.events:,} events)"

    def lines(self) -> Iterator[bytes]:
        return self.shop.lines(datetime.fromtimestamp(self.published_at / 1000, UTC))


@dataclass(frozen=True)
class FileLines:
    """A file of JSON lines, plain or gzip; it is streamed, never held.

    Blank lines at the end of the file are not events. A blank line before another line is one: it is published as
    it stands and becomes a dead letter, so that every line up to the last one is accounted for.
    """

    path: Path

    @property
    def label(self) -> str:
        return str(self.path)

    def lines(self) -> Iterator[bytes]:
        """Raises ``ConfigurationError`` when the file cannot be read to its end."""
        try:
            with self.path.open("rb") as file:
                yield from without_blank_end(_split(self._opened(file)))
        except FileNotFoundError as exc:
            raise ConfigurationError(f"there is no file {self.path}: give the path of a .jsonl or .jsonl.gz") from exc
        except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
            raise ConfigurationError(f"{self.path} is damaged ({exc}): make it again with gzip") from exc
        except OSError as exc:
            raise ConfigurationError(f"{self.path} cannot be read: {exc.strerror or exc}") from exc

    def _opened(self, file: BinaryIO) -> BinaryIO:
        packed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        if packed:
            return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
        if self.path.suffix == ".gz":
            raise ConfigurationError(f"{self.path} is not a gzip file: compress it with gzip, or take .gz off its name")
        return file


def _split(file: BinaryIO) -> Iterator[bytes]:
    """Lines without their ends. A line longer than Kafka takes is refused before it fills the memory."""
    number = 0
    while line := file.readline(LONGEST_LINE + 2):
        number += 1
        text = line.removesuffix(b"\n").removesuffix(b"\r")
        if len(text) > LONGEST_LINE:
            raise ConfigurationError(
                f"line {number} has more than {LONGEST_LINE:,} bytes, which no Kafka message takes: "
                "is this a file of JSON lines, one event each?"
            )
        yield text


def without_blank_end(lines: Iterable[bytes]) -> Iterator[bytes]:
    """``lines`` without those at the end that are empty or white space."""
    blank: list[bytes] = []
    for line in lines:
        if line and not line.isspace():
            yield from blank
            blank.clear()
            yield line
        else:
            blank.append(line)
