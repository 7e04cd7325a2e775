"""The whole system: events go in at Kafka and come out of the endpoint, and nothing that is repeated changes it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.e2e.system import Stored, System, hour_before

USERS = 24
ITEMS = [f"{colour} {thing}" for colour in ("red", "green", "blue", "white") for thing in ("cup", "lamp", "chair")]
NOW = datetime.now(UTC)
#: An hour that has ended, so that Airflow may backfill it.
PUBLISHED = hour_before(NOW, 2) + timedelta(minutes=30)
MALFORMED = {"bad": [b"{", b"[]", json.dumps({"user_id": "bad", "message_id": "1"}).encode()]}


def events_of(user: int) -> list[bytes]:
    """Six purchases of one colour and one message; users of a colour overlap, so that they are similar."""
    own = [index for index in range(len(ITEMS)) if index % 2 == user % 2]
    chosen = [own[(user + step) % len(own)] for step in range(4)]
    purchases = [purchase(user, number, item) for number, item in enumerate(chosen)]
    words = {"kind": "message", "message_id": "words", "text": f"I love {ITEMS[chosen[0]]} things"}
    return [*purchases, event(user, **words)]


def purchase(user: int, number: int, item: int) -> bytes:
    fields = {"message_id": str(number), "kind": "purchase", "item_id": f"i{item}", "text": ITEMS[item], "value": 1.5}
    return event(user, **fields)


def event(user: int, **fields: Any) -> bytes:
    when = (PUBLISHED - timedelta(hours=user % 5)).isoformat()
    return json.dumps({"user_id": f"user {user}", "occurred_at": when, "campaign_id": "c", **fields}).encode()


EVENTS = {f"user {user}": events_of(user) for user in range(USERS)}


@pytest.fixture(scope="module")
def first(system: System) -> Stored:
    """What the stores hold after the events were published once, with a few malformed ones."""
    system.publish({**EVENTS, **MALFORMED}, PUBLISHED)
    system.settle()
    return system.stored()


@pytest.fixture(scope="module")
def lists(system: System, first: Stored) -> dict[str, Any]:
    """The answer for each user, without the time it was made."""
    assert first
    return answers(system)


def answers(system: System) -> dict[str, Any]:
    found = {user: system.recommendations(user) for user in EVENTS}
    return {user: [item["item_id"] for item in answer["items"]] for user, answer in found.items()}


def test_events_reach_every_store(system: System, first: Stored) -> None:
    """Every valid event is in MongoDB and the warehouse, each text in Milvus, each item in Neo4j, once."""
    everything = USERS * 5
    assert len(first.mongo) == len(first.warehouse) == len(first.milvus) == everything
    assert first.mongo.keys() == first.milvus.keys()
    assert len(first.neo4j) == USERS * 4
    assert first.neo4j.keys() < first.mongo.keys()
    assert sum(row[4] for row in first.engagement) == everything
    assert system.warehouse.inventory.aggregate_difference() == 0


def test_malformed_messages_are_explained(system: System, first: Stored) -> None:
    """What is no event is counted by its reason, and nothing is unaccounted for."""
    assert first
    totals = system.warehouse.inventory.totals(system.settings.kafka.topic)
    assert totals.dead_letters == {"invalid_json": 1, "kind_missing": 1, "not_an_object": 1}
    assert totals.delivered == totals.valid + 3 == USERS * 5 + 3


def test_recommendations_come_out_of_the_endpoint(system: System, lists: dict[str, Any]) -> None:
    """Every user gets items that similar users chose, none of them the user's own, each with text and reason."""
    for user, payloads in EVENTS.items():
        own = {json.loads(payload).get("item_id") for payload in payloads}
        assert lists[user]
        assert not own & set(lists[user])
    answer = system.recommendations("user 3")
    assert answer["source"] == "similar_users"
    assert answer["partial"] is False
    assert {item["source"] for item in answer["items"]} >= {"similar_users"}
    assert all(item["text"] in ITEMS and item["reason"] for item in answer["items"])


def test_an_unknown_user_gets_what_is_popular(system: System, lists: dict[str, Any]) -> None:
    """A user without a list is answered with the popular one, and told so."""
    assert lists
    answer = system.recommendations("nobody ever heard of")
    assert answer["source"] == "popular"
    assert len(answer["items"]) == len(ITEMS)


def test_publishing_again_changes_nothing(system: System, first: Stored, lists: dict[str, Any]) -> None:
    """The same events once more are duplicates: stores, aggregates and lists stay as they are."""
    system.publish(EVENTS, PUBLISHED)
    system.settle()
    assert system.stored() == first
    assert answers(system) == lists
    totals = system.warehouse.inventory.totals(system.settings.kafka.topic)
    assert totals.valid == 2 * USERS * 5
    assert system.warehouse.inventory.event_count() == USERS * 5


def forget_documents(system: System) -> int:
    """Lose MongoDB's events: what only an ingest of the same range brings back."""
    events = system.mongo[system.settings.mongo.database][system.settings.mongo.collection]
    return events.delete_many({}).deleted_count


def test_a_manual_run_ingests_a_range_again(system: System, first: Stored) -> None:
    """Triggered with from and to, as from the UI, a run restores what a store lost and moves no offset."""
    assert forget_documents(system) == len(first.mongo)
    before = [system.source.committed(shard) for shard in range(system.shards)]
    span = {
        "from": (PUBLISHED - timedelta(minutes=1)).isoformat(),
        "to": (PUBLISHED + timedelta(minutes=1)).isoformat(),
    }
    states = {system.run_by_hand(f"ingest_shard_{shard:03d}", span) for shard in range(system.shards)}
    assert states == {"success"}
    assert system.stored() == first
    assert [system.source.committed(shard) for shard in range(system.shards)] == before


def test_a_backfill_ingests_its_hours_again(system: System, first: Stored) -> None:
    """A backfill of the hour of publishing, as from the UI, restores what a store lost and moves no offset."""
    assert forget_documents(system) == len(first.mongo)
    before = [system.source.committed(shard) for shard in range(system.shards)]
    hour = PUBLISHED.replace(minute=0)
    for shard in range(system.shards):
        states = system.backfill(f"ingest_shard_{shard:03d}", hour, hour)
        assert states
        assert set(states) == {"success"}
    assert system.stored() == first
    assert [system.source.committed(shard) for shard in range(system.shards)] == before


def test_an_aggregation_is_backfilled(system: System, first: Stored) -> None:
    """Lost aggregates of an hour come back by a backfill of that hour, and equal a recount."""
    system.warehouse.database.run("DELETE FROM engagement_hourly")
    occurred = [hour_before(PUBLISHED, back) for back in range(5)]
    states = system.backfill("aggregate_engagement", min(occurred), max(occurred))
    assert len(states) == len(occurred)
    assert set(states) == {"success"}
    assert system.stored().engagement == first.engagement
