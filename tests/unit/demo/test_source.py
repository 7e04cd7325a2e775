"""Reading lines from the shop and from files."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.shop import Shop
from demo.source import MAX_LINE_BYTES, FileLines, ShopLines, strip_trailing_blank_lines
from include.errors import ConfigurationError


def write_lines(path: Path, content: bytes) -> FileLines:
    path.write_bytes(content)
    return FileLines(path)


def test_shop_lines_can_be_read_twice() -> None:
    """A resumed run reads the same lines again."""
    source = ShopLines(Shop(users=3, events=50), 1_700_000_000_000)
    assert list(source.lines()) == list(source.lines())


@pytest.mark.parametrize("compress", [True, False])
def test_plain_and_gzip(tmp_path: Path, compress: bool) -> None:
    """Plain and gzip files yield the same lines without line endings, and can be read again."""
    content = b'{"a":1}\n{"b":2}\r\n{"c":3}'
    name = "events.jsonl.gz" if compress else "events.jsonl"
    source = write_lines(tmp_path / name, gzip.compress(content) if compress else content)
    assert list(source.lines()) == [b'{"a":1}', b'{"b":2}', b'{"c":3}']
    assert list(source.lines()) == [b'{"a":1}', b'{"b":2}', b'{"c":3}']


def test_gzip_is_detected_by_content(tmp_path: Path) -> None:
    """A gzip file is decompressed even if its name does not end in .gz."""
    assert list(write_lines(tmp_path / "events", gzip.compress(b"1\n2\n")).lines()) == [b"1", b"2"]


def test_missing_file(tmp_path: Path) -> None:
    """The error names the missing file."""
    with pytest.raises(ConfigurationError, match=r"file not found: .*nowhere\.jsonl"):
        list(FileLines(tmp_path / "nowhere.jsonl").lines())


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    """A folder cannot be read as a file, and the error says so."""
    with pytest.raises(ConfigurationError, match="cannot read"):
        list(FileLines(tmp_path).lines())


def test_a_gz_file_that_is_not_gzip_is_rejected(tmp_path: Path) -> None:
    """A plain file called .gz is rejected, and the error says what to do."""
    with pytest.raises(ConfigurationError, match="is not a gzip file"):
        list(write_lines(tmp_path / "events.jsonl.gz", b'{"a":1}\n').lines())


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:40] + b"\0" * 40 + data[80:]])
def test_damaged_gzip(tmp_path: Path, damage: object) -> None:
    """A truncated or overwritten gzip file is rejected instead of being read in part."""
    assert callable(damage)
    data = gzip.compress(bytes(range(256)) * 40)
    with pytest.raises(ConfigurationError, match="is damaged"):
        list(write_lines(tmp_path / "events.jsonl.gz", damage(data)).lines())


def test_a_line_too_long_for_kafka_is_rejected(tmp_path: Path) -> None:
    """The error names the line number, and the line is not read into memory as a whole."""
    source = write_lines(tmp_path / "events.jsonl", b"{}\n" + b"x" * (MAX_LINE_BYTES + 1) + b"\n")
    with pytest.raises(ConfigurationError, match="line 2 is longer than"):
        list(source.lines())


def test_the_longest_line_is_accepted(tmp_path: Path) -> None:
    """The limit is inclusive, with either line ending."""
    longest = b"x" * MAX_LINE_BYTES
    assert list(write_lines(tmp_path / "a", longest + b"\r\n" + longest + b"\n" + longest).lines()) == [longest] * 3


def test_blank_lines_in_the_middle_are_kept(tmp_path: Path) -> None:
    """Only blank lines at the end of the file are ignored."""
    source = write_lines(tmp_path / "events.jsonl", b'{"a":1}\n\n  \n{"b":2}\n\n \n\n')
    assert list(source.lines()) == [b'{"a":1}', b"", b"  ", b'{"b":2}']


@given(st.lists(st.sampled_from([b"", b" ", b"\t", b"{}", b"x"])))
def test_only_trailing_blank_lines_are_stripped(lines: list[bytes]) -> None:
    """The result is a prefix of the lines that does not end in a blank line, and only blank lines are cut off."""
    stripped = list(strip_trailing_blank_lines(lines))
    assert stripped == lines[: len(stripped)]
    assert not stripped or stripped[-1].strip()
    assert not any(line.strip() for line in lines[len(stripped) :])
