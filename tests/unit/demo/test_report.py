"""The JSON report and the tables."""

from __future__ import annotations

import io
import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import pytest
from rich.console import Console

from demo.manifest import Manifest, StageTimes
from demo.reader import Item, UserRecommendations, choose_users, fetch_recommendations
from demo.reconcile import Counts
from demo.report import build_report, print_counts, print_seconds, print_users, write_report
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
    stage_times=StageTimes(
        first_publish=1_070.0, published=1_072.0, ingested=1_100.0, aggregated=1_110.0, last_list=1_120.0
    ),
)  # fmt: skip


def test_the_report_has_exactly_these_fields(tmp_path: Path) -> None:
    """Other programs read the report, so its fields, nesting and values are fixed."""
    path = tmp_path / "reports" / "demo.json"
    write_report(path, build_report(COUNTS, RUN, 1_125.0))
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


def test_only_the_owner_can_read_the_report(tmp_path: Path) -> None:
    """The report and its new folder are private, whatever the umask."""
    path = tmp_path / "reports" / "demo.json"
    before = os.umask(0)
    try:
        write_report(path, build_report(COUNTS, RUN, 1_125.0))
    finally:
        os.umask(before)
    assert [stat.S_IMODE(entry.stat().st_mode) for entry in (path.parent, path)] == [0o700, 0o600]


def test_durations_are_never_negative() -> None:
    """Stages are polled every few seconds, so one may be seen to end after the next one has ended."""
    late = RUN.update(stage_times=msgspec.structs.replace(RUN.stage_times, aggregated=1_121.0))
    seconds = build_report(COUNTS, late, 1_125.0).seconds
    assert (seconds.ingest, seconds.aggregate, seconds.precompute) == (30.0, 20.0, 0.0)


def _render(print_table: object, *arguments: object) -> str:
    out = io.StringIO()
    assert callable(print_table)
    print_table(Console(file=out, width=100, color_system=None), *arguments)
    return out.getvalue()


def test_tables_mark_mismatches() -> None:
    """Each count is next to the expected one, and mismatches are marked."""
    equal = _render(print_counts, COUNTS, COUNTS, 0)
    assert "mismatch" not in equal
    assert "dead letters: invalid_json" in equal
    different = _render(print_counts, replace(COUNTS, lists=49), COUNTS, 3)
    assert different.count("mismatch") == 2
    assert "20" in _render(print_seconds, build_report(COUNTS, RUN, 1_125.0))


def test_users_are_shown_with_texts_and_reasons() -> None:
    """An item without a text is shown by its id; external text cannot inject markup or control characters."""
    items = [Item("7", "popular lately", "A [red]lamp\x1b[2J"), Item("8", "chosen by 2 people with similar taste")]
    page = _render(print_users, [UserRecommendations("user-1", "similar_users", items, ["Lamp"])])
    assert "user-1, list based on similar users" in page
    assert "1. A [red]lamp�[2J  popular lately" in page
    assert "2. 8  chosen by 2 people with similar taste" in page
    assert "recently engaged with: Lamp" in page


def test_an_empty_list_is_explained() -> None:
    """A user who has engaged with every item gets an explanation instead of recommendations."""
    page = _render(print_users, [UserRecommendations("only", "popular", [], ["Lamp"])])
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


def test_users_with_full_lists_from_similar_users_come_first(reader: httpx.Client) -> None:
    """The best examples are chosen first, each with its history."""
    users = choose_users(reader, ["new", "short", "a", "b"], lambda user: [user], 3)
    assert [user.user_id for user in users] == ["a", "b", "short"]
    assert users[0].history == ["a"]


def test_user_ids_are_quoted(reader: httpx.Client) -> None:
    """Slashes and other special characters in a user id are escaped in the URL."""
    assert fetch_recommendations(reader, "a/b ?")[1][0].reason == "a%2Fb%20%3F"


def test_a_failing_reader_is_a_transient_error(reader: httpx.Client) -> None:
    """The error names the user."""
    with pytest.raises(TransientError, match="no list for 'broken'"):
        fetch_recommendations(reader, "broken")
