"""Reading lines from the shop and from files."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.shop import Shop
from demo.source import LONGEST_LINE, FileLines, ShopLines, without_blank_end
from include.errors import ConfigurationError


def written(path: Path, content: bytes) -> FileLines:
    path.write_bytes(content)
    return FileLines(path)


def test_shop_lines_can_be_read_twice() -> None:
    """A run that goes on after a kill reads the same lines again."""
    source = ShopLines(Shop(users=3, events=50), 1_700_000_000_000)
    assert list(source.lines()) == list(source.lines())


@pytest.mark.parametrize("packed", [True, False])
def test_plain_and_gzip(tmp_path: Path, packed: bool) -> None:
    """Both kinds of file give the same lines, without their ends, and can be read again."""
    content = b'{"a":1}\n{"b":2}\r\n{"c":3}'
    name = "events.jsonl.gz" if packed else "events.jsonl"
    source = written(tmp_path / name, gzip.compress(content) if packed else content)
    assert list(source.lines()) == [b'{"a":1}', b'{"b":2}', b'{"c":3}']
    assert list(source.lines()) == [b'{"a":1}', b'{"b":2}', b'{"c":3}']


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    """A gzip file whose name does not say so is read all the same."""
    assert list(written(tmp_path / "events", gzip.compress(b"1\n2\n")).lines()) == [b"1", b"2"]


def test_missing_file(tmp_path: Path) -> None:
    """The message names the file."""
    with pytest.raises(ConfigurationError, match=r"there is no file .*nowhere\.jsonl"):
        list(FileLines(tmp_path / "nowhere.jsonl").lines())


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    """What cannot be read is said to be so, with the system's reason."""
    with pytest.raises(ConfigurationError, match="cannot be read"):
        list(FileLines(tmp_path).lines())


def test_not_gzip(tmp_path: Path) -> None:
    """A plain file called .gz is refused with what to do about it."""
    with pytest.raises(ConfigurationError, match="is not a gzip file"):
        list(written(tmp_path / "events.jsonl.gz", b'{"a":1}\n').lines())


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:40] + b"\0" * 40 + data[80:]])
def test_damaged_gzip(tmp_path: Path, damage: object) -> None:
    """A file cut short or overwritten is refused, not read as far as it goes."""
    assert callable(damage)
    data = gzip.compress(bytes(range(256)) * 40)
    with pytest.raises(ConfigurationError, match="is damaged"):
        list(written(tmp_path / "events.jsonl.gz", damage(data)).lines())


def test_line_beyond_what_kafka_takes(tmp_path: Path) -> None:
    """A file that is no JSON lines at all is refused by the number of its line, before it fills the memory."""
    source = written(tmp_path / "events.jsonl", b"{}\n" + b"x" * (LONGEST_LINE + 1) + b"\n")
    with pytest.raises(ConfigurationError, match="line 2 has more than"):
        list(source.lines())


def test_longest_line_is_taken(tmp_path: Path) -> None:
    """The limit itself is allowed, with either line end."""
    longest = b"x" * LONGEST_LINE
    assert list(written(tmp_path / "a", longest + b"\r\n" + longest + b"\n" + longest).lines()) == [longest] * 3


def test_blank_lines_in_the_middle_are_lines(tmp_path: Path) -> None:
    """Only those at the end are no events."""
    source = written(tmp_path / "events.jsonl", b'{"a":1}\n\n  \n{"b":2}\n\n \n\n')
    assert list(source.lines()) == [b'{"a":1}', b"", b"  ", b'{"b":2}']


@given(st.lists(st.sampled_from([b"", b" ", b"\t", b"{}", b"x"])))
def test_only_the_blank_end_goes(lines: list[bytes]) -> None:
    """What is left is a beginning of the lines and ends in one that is not blank; the rest is blank."""
    left = list(without_blank_end(lines))
    assert left == lines[: len(left)]
    assert not left or left[-1].strip()
    assert not any(line.strip() for line in lines[len(left) :])
