"""The demo's input: the shop or a file. Either can be read again and then yields the same lines."""

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

_GZIP_MAGIC = b"\x1f\x8b"
#: Kafka accepts messages of up to 1 MB including headers, and so do the stores behind it.
MAX_LINE_BYTES = 900_000


class Lines(Protocol):
    """A source of lines. ``label`` is its name in messages."""

    @property
    def label(self) -> str: ...
    def lines(self) -> Iterator[bytes]:
        """Yield every line without its line ending; each call starts from the first line."""


@dataclass(frozen=True)
class ShopLines:
    """The shop's events up to ``published_at`` (ms since 1970)."""

    shop: Shop
    published_at: int

    @property
    def label(self) -> str:
        return f"a small shop (seed {self.shop.seed}, {self.shop.users:,} users, {self.shop.events:,} events)"

    def lines(self) -> Iterator[bytes]:
        return self.shop.lines(datetime.fromtimestamp(self.published_at / 1000, UTC))


@dataclass(frozen=True)
class FileLines:
    """A file of JSON lines, plain or gzip. It is streamed, never loaded as a whole.

    Blank lines at the end of the file are ignored. A blank line before that is published unchanged and becomes a dead
    letter, so that every line up to the last one is accounted for.
    """

    path: Path

    @property
    def label(self) -> str:
        return str(self.path)

    def lines(self) -> Iterator[bytes]:
        """Raises ``ConfigurationError`` if the file cannot be read to the end."""
        try:
            with self.path.open("rb") as file:
                yield from strip_trailing_blank_lines(_split_lines(self._decompress(file)))
        except FileNotFoundError as exc:
            raise ConfigurationError(
                f"file not found: {self.path}. Give the path of a .jsonl or .jsonl.gz file"
            ) from exc
        except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
            raise ConfigurationError(f"{self.path} is damaged ({exc}): compress it again with gzip") from exc
        except OSError as exc:
            raise ConfigurationError(f"cannot read {self.path}: {exc.strerror or exc}") from exc

    def _decompress(self, file: BinaryIO) -> BinaryIO:
        is_gzip = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        file.seek(0)
        if is_gzip:
            return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
        if self.path.suffix == ".gz":
            raise ConfigurationError(f"{self.path} is not a gzip file: compress it with gzip, or remove the .gz suffix")
        return file


def _split_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield lines without line endings. Rejects a line that is too long for Kafka before it fills the memory."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 2):
        number += 1
        text = line.removesuffix(b"\n").removesuffix(b"\r")
        if len(text) > MAX_LINE_BYTES:
            raise ConfigurationError(
                f"line {number} is longer than {MAX_LINE_BYTES:,} bytes, the limit for a Kafka message: "
                "is this a file of JSON lines, one event per line?"
            )
        yield text


def strip_trailing_blank_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield ``lines`` without the empty or whitespace-only lines at the end."""
    blank: list[bytes] = []
    for line in lines:
        if line and not line.isspace():
            yield from blank
            blank.clear()
            yield line
        else:
            blank.append(line)
