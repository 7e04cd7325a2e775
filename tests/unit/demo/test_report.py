"""The report and the tables."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from demo.manifest import Manifest, Marks
from demo.reader import Item, Shown, chosen, recommendations
from demo.reconcile import Counts
from demo.report import make_report, show_counts, show_seconds, show_users, write_report
from include.errors import TransientError

COUNTS = Counts(
    delivered=1_000,
    unique_valid=900,
    duplicates=60,
    dead_letters={"invalid_json": 40},
    stores={"mongo": 900, "milvus": 800, "neo4j": 700, "warehouse": 900},
    lists=50,
)
RUN = Manifest(
    "a shop", 4, "abc", 0, 1_000.0, setup_seconds=5.04, start_seconds=60.0,
    marks=Marks(first_publish=1_070.0, published=1_072.0, ingested=1_100.0, aggregated=1_110.0, last_list=1_120.0),
)  # fmt: skip


def test_the_report_has_exactly_these_fields(tmp_path: Path) -> None:
    """Programs read it: names, nesting and meaning are fixed."""
    path = tmp_path / "reports" / "demo.json"
    write_report(path, make_report(COUNTS, RUN, 1_125.0))
    assert json.loads(path.read_text()) == {
        "delivered": 1_000,
        "unique_valid": 900,
        "duplicates": 60,
        "dead_letters": {"invalid_json": 40},
        "stores": {"mongo": 900, "milvus": 800, "neo4j": 700, "warehouse": 900},
        "lists": 50,
        "seconds": {
            "setup": 5.0, "start": 60.0, "publish": 2.0, "ingest": 30.0, "aggregate": 10.0, "precompute": 10.0,
            "total": 125.0,
        },
        "events_per_second": 20.0,
    }  # fmt: skip
    assert [entry.name for entry in path.parent.iterdir()] == ["demo.json"]


def test_stages_seen_late_are_not_negative() -> None:
    """The watch looks every few seconds: a stage may be seen to end after the next one has."""
    late = replace(RUN, marks=replace(RUN.marks, aggregated=1_121.0))
    seconds = make_report(COUNTS, late, 1_125.0).seconds
    assert (seconds.ingest, seconds.aggregate, seconds.precompute) == (30.0, 20.0, 0.0)


def _shown(show: object, *arguments: object) -> str:
    out = io.StringIO()
    assert callable(show)
    show(Console(file=out, width=100, color_system=None), *arguments)
    return out.getvalue()


def test_tables_show_what_differs() -> None:
    """Each number stands beside the one expected; a wrong one is marked."""
    right = _shown(show_counts, COUNTS, COUNTS, 0)
    assert "differs" not in right
    assert "dead letters: invalid_json" in right
    wrong = _shown(show_counts, replace(COUNTS, lists=49), COUNTS, 3)
    assert wrong.count("differs") == 2
    assert "20" in _shown(show_seconds, make_report(COUNTS, RUN, 1_125.0))


def test_users_are_shown_with_texts_and_reasons() -> None:
    """An item without a text is shown by its id; what comes from outside cannot write markup or control characters."""
    items = [Item("7", "popular lately", "A [red]lamp\x1b[2J"), Item("8", "chosen by 2 people with similar taste")]
    page = _shown(show_users, [Shown("user-1", "similar_users", items, ["Lamp"])])
    assert "user-1, whose list was made from similar users" in page
    assert "1. A [red]lamp�[2J  popular lately" in page
    assert "2. 8  chosen by 2 people with similar taste" in page
    assert "engaged lately with: Lamp" in page


def test_a_user_with_nothing_to_recommend_is_told_so() -> None:
    """An empty list is explained: where every item is the user's own, none is left."""
    page = _shown(show_users, [Shown("only", "popular", [], ["Lamp"])])
    assert "nothing to recommend" in page


def _reader(request: httpx.Request) -> httpx.Response:
    user = request.url.raw_path.split(b"/")[3].decode()
    if user == "broken":
        return httpx.Response(500)
    source = "popular" if user == "new" else "similar_users"
    length = 3 if user == "short" else 10
    item = {"item_id": "1", "text": None, "score": 0.5, "reason": user, "source": source}
    return httpx.Response(200, json={"user_id": user, "source": source, "generated_at": "x", "items": [item] * length})


@pytest.fixture
def reader() -> httpx.Client:
    return httpx.Client(base_url="http://reader", transport=httpx.MockTransport(_reader))


def test_full_lists_of_similar_users_are_shown_first(reader: httpx.Client) -> None:
    """Three good examples, where there are three."""
    shown = chosen(reader, ["new", "short", "a", "b"], lambda user: [user], 3)
    assert [one.user_id for one in shown] == ["a", "b", "short"]
    assert shown[0].history == ["a"]


def test_any_user_id_can_be_asked_for(reader: httpx.Client) -> None:
    """Slashes and the like are quoted."""
    assert recommendations(reader, "a/b ?")[1][0].reason == "a%2Fb%20%3F"


def test_a_reader_that_fails(reader: httpx.Client) -> None:
    """The user in question is named."""
    with pytest.raises(TransientError, match="no list for 'broken'"):
        recommendations(reader, "broken")
