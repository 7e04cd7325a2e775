"""The expected counts, worked out from the input alone."""

from __future__ import annotations

import json
import os
import random
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demo.recount import InputSummary, find_broken_rule, open_input_events
from demo.shop import Shop
from demo.source import FileLines, ShopLines
from include.bootstrap import SINKS
from include.domain.event import decode
from include.domain.reasons import Reason
from include.errors import ConfigurationError

NOW_MS = 1_770_000_000_000
MOMENT = datetime.fromtimestamp(NOW_MS / 1000, UTC)
RETAIL = Path(__file__).parents[4] / "shared" / "data" / "online-retail" / "events.jsonl.gz"


@dataclass(frozen=True)
class InMemoryLines:
    """Lines in memory."""

    content: tuple[bytes, ...]
    label: str = "the test"

    def lines(self) -> Iterator[bytes]:
        return iter(self.content)


def encode(user: str = "u", message: str = "m", **more: object) -> bytes:
    base = {"user_id": user, "message_id": message, "kind": "view", "occurred_at": "2026-01-01T00:00:00Z"}
    return json.dumps({**base, "item_id": "i", **more}).encode()


def summarise(folder: Path, *lines: bytes) -> InputSummary:
    with open_input_events(folder / "recount.sqlite") as events:
        return events.load(InMemoryLines(lines), 4, NOW_MS, lambda _: None)


def test_the_counts_of_the_default_shop(tmp_path: Path) -> None:
    """The default shop has the counts that its documentation states."""
    with open_input_events(tmp_path / "recount.sqlite") as events:
        counts = events.load(ShopLines(Shop(), NOW_MS), 4, NOW_MS, lambda _: None).expected
    assert (counts.delivered, counts.unique_valid, counts.duplicates, counts.lists) == (20_000, 19_200, 600, 2_000)
    assert set(counts.dead_letters.values()) == {20}
    assert len(counts.dead_letters) == 10
    assert counts.stores["mongo"] == counts.stores["warehouse"] == 19_200


def test_only_the_owner_can_read_the_input_events(tmp_path: Path) -> None:
    """The file has every event, so it is private, whatever the umask; it is deleted at the end."""
    path = tmp_path / "recount.sqlite"
    before = os.umask(0)
    try:
        with open_input_events(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert not path.exists()


def test_every_registered_sink_has_an_expected_count(tmp_path: Path) -> None:
    """A sink that is added to the registry is checked by the demo without further changes."""
    assert summarise(tmp_path, encode()).expected.stores.keys() == SINKS.keys()


def test_the_winning_version_decides_which_stores_get_the_event(tmp_path: Path) -> None:
    """An event whose highest version has no text is not expected in Milvus, whatever the order of arrival."""
    for order in ((0, 1), (1, 0)):
        versions = (encode(text="hello"), encode(version=1))
        expected = summarise(tmp_path, *(versions[index] for index in order)).expected
        assert expected.stores == {"mongo": 1, "milvus": 0, "neo4j": 1, "warehouse": 1}
        assert expected.duplicates == 1


@given(st.integers(0, 1000))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_order_of_arrival_does_not_matter(tmp_path: Path, seed: int) -> None:
    """The same lines have the same counts in any order."""
    lines = list(Shop(users=8, events=120).lines(MOMENT))
    shuffled = random.Random(seed).sample(lines, len(lines))
    assert summarise(tmp_path, *shuffled).expected == summarise(tmp_path, *lines).expected


def test_the_fingerprint_identifies_the_lines(tmp_path: Path) -> None:
    """The same lines in a different order have a different fingerprint."""
    orders = ((encode("a"), encode("b")), (encode("b"), encode("a")))
    fingerprints = [summarise(tmp_path, *lines).fingerprint for lines in orders]
    assert fingerprints[0] != fingerprints[1]
    assert fingerprints[0] == summarise(tmp_path, encode("a"), encode("b")).fingerprint


def test_a_blank_line_is_a_dead_letter(tmp_path: Path) -> None:
    """An empty line is counted as a dead letter."""
    assert summarise(tmp_path, encode(), b"", encode(message="n")).expected.dead_letters == {"empty_message": 1}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), "the test is empty"),
        ((b"{}", b"x"), "no valid events in 2 lines"),
        ((encode(user=""),), "1 × user_id_length"),
    ],
)
def test_an_input_without_valid_events_is_rejected(tmp_path: Path, lines: tuple[bytes, ...], message: str) -> None:
    """The error says what is wrong with the lines."""
    with pytest.raises(ConfigurationError, match=message):
        summarise(tmp_path, *lines)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"user": ""}, Reason.USER_ID_LENGTH),
        ({"user": "u" * 129, "message": ""}, Reason.USER_ID_LENGTH),
        ({"user": "é" * 128}, None),
        ({"message": "m" * 129}, Reason.MESSAGE_ID_LENGTH),
        ({"kind": ""}, Reason.KIND_LENGTH),
        ({"occurred_at": "2026-02-03T02:40:00Z"}, None),
        ({"occurred_at": "2026-02-03T02:40:00.001Z"}, Reason.OCCURRED_AT_IN_FUTURE),
        ({"item_id": "i" * 257}, Reason.ITEM_ID_LENGTH),
        ({"item_id": "i" * 256}, None),
        ({"campaign_id": "c" * 257}, Reason.CAMPAIGN_ID_LENGTH),
        ({"item_id": None}, Reason.NO_TEXT_AND_NO_ITEM),
        ({"item_id": None, "text": " "}, Reason.NO_TEXT_AND_NO_ITEM),
    ],
)
def test_value_rules(changes: dict[str, str], reason: Reason | None) -> None:
    """Limits are inclusive, and the first broken rule is the reason."""
    assert find_broken_rule(decode(encode(**changes)), NOW_MS) == reason


def test_lines_are_counted_by_shard(tmp_path: Path) -> None:
    """Each line is counted in the shard that the publisher sends it to."""
    summary = summarise(tmp_path, encode("a"), encode("a"), b"x", b"y")
    assert sum(summary.lines_per_shard) == 4
    assert max(summary.lines_per_shard) >= 2


def test_example_users_are_chosen_for_their_history(tmp_path: Path) -> None:
    """Users with several items come before one-off visitors, plain names before odd ones, each with its history."""
    lines = [encode("once", "0")]
    lines += [
        encode(user, f"{n}", item_id=f"i{n}", text=f"thing {n}", occurred_at=f"2026-01-0{n + 1}T00:00:00Z")
        for user in ("some", "odd/one")
        for n in range(8)
    ]
    with open_input_events(tmp_path / "recount.sqlite") as events:
        events.load(InMemoryLines(tuple(lines)), 4, NOW_MS, lambda _: None)
        assert events.choose_example_users(3) == ["some", "once", "odd/one"]
        assert events.read_history("some", 2) == ["thing 7", "thing 6"]
        assert [list(chunk) for chunk in events.read_users()] == [["odd/one", "once", "some"]]


def test_the_file_is_deleted(tmp_path: Path) -> None:
    """The SQLite file is deleted on exit."""
    summarise(tmp_path, encode())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not RETAIL.exists(), reason="the retail file is not available")
def test_the_retail_file(tmp_path: Path) -> None:
    """The retail file has the counts that its README states."""
    with open_input_events(tmp_path / "recount.sqlite") as events:
        counts = events.load(FileLines(RETAIL), 4, NOW_MS, lambda _: None).expected
    assert (counts.delivered, counts.unique_valid, counts.duplicates) == (541_909, 396_681, 10_148)
    assert counts.dead_letters == {"user_id_missing": 135_080}
    assert set(counts.stores.values()) == {396_681}
    assert counts.lists == 4_372
