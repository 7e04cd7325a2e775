"""The independent recount of the input."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demo.recount import Survey, recount, value_reason
from demo.shop import Shop
from demo.source import FileLines, ShopLines
from include.domain.event import decode
from include.domain.reasons import Reason
from include.errors import ConfigurationError

NOW_MS = 1_770_000_000_000
MOMENT = datetime.fromtimestamp(NOW_MS / 1000, UTC)
RETAIL = Path(__file__).parents[4] / "shared" / "data" / "online-retail" / "events.jsonl.gz"


@dataclass(frozen=True)
class Given:
    """Lines in memory."""

    given: tuple[bytes, ...]
    label: str = "the test"

    def lines(self) -> Iterator[bytes]:
        return iter(self.given)


def line(user: str = "u", message: str = "m", **more: object) -> bytes:
    base = {"user_id": user, "message_id": message, "kind": "view", "occurred_at": "2026-01-01T00:00:00Z"}
    return json.dumps({**base, "item_id": "i", **more}).encode()


def surveyed(folder: Path, *lines: bytes) -> Survey:
    with recount(folder / "recount.sqlite") as counted:
        return counted.survey(Given(lines), 4, NOW_MS, lambda _: None)


def test_the_shop_counts_up(tmp_path: Path) -> None:
    """The default shop's figures, which anyone may compare with those on the screen."""
    with recount(tmp_path / "recount.sqlite") as counted:
        counts = counted.survey(ShopLines(Shop(), NOW_MS), 4, NOW_MS, lambda _: None).counts
    assert (counts.delivered, counts.unique_valid, counts.duplicates, counts.lists) == (20_000, 19_200, 600, 2_000)
    assert set(counts.dead_letters.values()) == {20}
    assert len(counts.dead_letters) == 10
    assert counts.stores["mongo"] == counts.stores["warehouse"] == 19_200


def test_the_winner_decides_which_stores_have_it(tmp_path: Path) -> None:
    """An event whose higher version has no text is in no store of texts, whatever came first."""
    for order in ((0, 1), (1, 0)):
        two = (line(text="hello"), line(version=1))
        survey = surveyed(tmp_path, *(two[index] for index in order))
        assert survey.counts.stores == {"mongo": 1, "milvus": 0, "neo4j": 1, "warehouse": 1}
        assert survey.counts.duplicates == 1


@given(st.integers(0, 1000))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_order_of_arrival_does_not_matter(tmp_path: Path, seed: int) -> None:
    """Any order of the same lines gives the same counts."""
    lines = list(Shop(users=8, events=120).lines(MOMENT))
    shuffled = random.Random(seed).sample(lines, len(lines))
    assert surveyed(tmp_path, *shuffled).counts == surveyed(tmp_path, *lines).counts


def test_the_fingerprint_is_of_the_lines(tmp_path: Path) -> None:
    """Another byte, another order or another cut of the same bytes is another input."""
    prints = [surveyed(tmp_path, *lines).fingerprint for lines in ((line("a"), line("b")), (line("b"), line("a")))]
    assert prints[0] != prints[1]
    assert prints[0] == surveyed(tmp_path, line("a"), line("b")).fingerprint


def test_a_blank_line_is_a_dead_letter(tmp_path: Path) -> None:
    """A line with nothing in it is accounted for."""
    assert surveyed(tmp_path, line(), b"", line(message="n")).counts.dead_letters == {"empty_message": 1}


@pytest.mark.parametrize(
    ("lines", "message"),
    [((), "the test is empty"), ((b"{}", b"x"), "no valid event in 2 lines"), ((line(user=""),), "1 × user_id_length")],
)
def test_nothing_valid(tmp_path: Path, lines: tuple[bytes, ...], message: str) -> None:
    """An input without one event is refused, with what is wrong with it."""
    with pytest.raises(ConfigurationError, match=message):
        surveyed(tmp_path, *lines)


@pytest.mark.parametrize(
    ("changed", "reason"),
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
def test_value_rules(changed: dict[str, str], reason: Reason | None) -> None:
    """The limits themselves are allowed; of several rules the first one gives the reason."""
    assert value_reason(decode(line(**changed)), NOW_MS) == reason


def test_lines_are_counted_by_shard(tmp_path: Path) -> None:
    """Each line is counted where the publisher will send it."""
    survey = surveyed(tmp_path, line("a"), line("a"), b"x", b"y")
    assert sum(survey.per_shard) == 4
    assert max(survey.per_shard) >= 2


def test_examples_prefer_users_with_something_to_tell(tmp_path: Path) -> None:
    """Users of a handful of items come first, plain names before odd ones, and what they had last is known."""
    lines = [line("once", "0")]
    lines += [
        line(user, f"{n}", item_id=f"i{n}", text=f"thing {n}", occurred_at=f"2026-01-0{n + 1}T00:00:00Z")
        for user in ("some", "odd/one")
        for n in range(8)
    ]
    with recount(tmp_path / "recount.sqlite") as counted:
        counted.survey(Given(tuple(lines)), 4, NOW_MS, lambda _: None)
        assert counted.examples(3) == ["some", "once", "odd/one"]
        assert counted.history("some", 2) == ["thing 7", "thing 6"]
        assert [list(chunk) for chunk in counted.users()] == [["odd/one", "once", "some"]]


def test_the_file_goes(tmp_path: Path) -> None:
    """Nothing is left of a recount."""
    surveyed(tmp_path, line())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not RETAIL.exists(), reason="the retail file is not here")
def test_the_retail_file(tmp_path: Path) -> None:
    """The real file has the figures that its README and the acceptance name."""
    with recount(tmp_path / "recount.sqlite") as counted:
        counts = counted.survey(FileLines(RETAIL), 4, NOW_MS, lambda _: None).counts
    assert (counts.delivered, counts.unique_valid, counts.duplicates) == (541_909, 396_681, 10_148)
    assert counts.dead_letters == {"user_id_missing": 135_080}
    assert set(counts.stores.values()) == {396_681}
    assert counts.lists == 4_372
