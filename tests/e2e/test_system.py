"""The whole system, from events in Kafka to recommendations at the endpoint; repeating any step changes nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from include.domain.identity import event_id
from tests.canary import CANARY, ODD
from tests.e2e.system import StoreContents, System, hour_before, wait_for

#: Every text and id is marked: test_system_privacy.py searches all logs for them.
USERS = [f"user {number} {ODD}" for number in range(24)]
TEXTS = [
    f"{colour} {thing} {ODD}" for colour in ("red", "green", "blue", "white") for thing in ("cup", "lamp", "chair")
]
ITEMS = [f"i{number} {ODD}" for number in range(len(TEXTS))]
NOW = datetime.now(UTC)
#: In an hour that has already ended, because Airflow backfills only those.
PUBLISHED = hour_before(NOW, 2) + timedelta(minutes=30)
MALFORMED = {
    f"bad {ODD}": [
        f'{{"user_id": "{CANARY}'.encode(),
        f'["{CANARY}"]'.encode(),
        json.dumps({"user_id": ODD, "message_id": ODD}).encode(),
        json.dumps({"user_id": ODD, "message_id": ODD, "kind": [ODD]}).encode(),
        json.dumps({"user_id": f"{ODD}\0", "message_id": ODD, "kind": ODD}).encode(),
        json.dumps({"user_id": ODD, "message_id": ODD, "kind": ODD, "occurred_at": ODD}).encode(),
        json.dumps(
            {"user_id": 9 * ODD, "message_id": ODD, "kind": "view", "occurred_at": NOW.isoformat(), "text": ODD}
        ).encode(),
    ]
}
REASONS = {
    "forbidden_characters": 1,
    "invalid_json": 1,
    "kind_missing": 1,
    "kind_not_a_string": 1,
    "not_an_object": 1,
    "occurred_at_invalid": 1,
    "user_id_length": 1,
}


def make_events(user: int) -> list[bytes]:
    """Four purchases and one message. Even and odd users buy different items, so those in one group are similar."""
    group_items = [index for index in range(len(ITEMS)) if index % 2 == user % 2]
    items = [group_items[(user + step) % len(group_items)] for step in range(4)]
    purchases = [make_purchase(user, number, item) for number, item in enumerate(items)]
    message = {"kind": "message", "message_id": f"words {ODD}", "text": f"I love {TEXTS[items[0]]} things"}
    return [*purchases, make_event(user, **message)]


def make_purchase(user: int, number: int, item: int) -> bytes:
    fields = {"message_id": f"{number} {ODD}", "item_id": ITEMS[item], "text": TEXTS[item]}
    return make_event(user, kind="purchase", value=1.5, **fields)


def make_event(user: int, **fields: Any) -> bytes:
    occurred_at = (PUBLISHED - timedelta(hours=user % 5)).isoformat()
    return json.dumps({"user_id": USERS[user], "occurred_at": occurred_at, "campaign_id": ODD, **fields}).encode()


EVENTS = {user: make_events(number) for number, user in enumerate(USERS)}


@pytest.fixture(scope="module")
def initial(system: System) -> StoreContents:
    """The contents of the stores after publishing the events once, together with a few malformed messages."""
    system.publish({**EVENTS, **MALFORMED}, PUBLISHED)
    system.wait_until_quiesced()
    return system.read_stores()


@pytest.fixture(scope="module")
def lists(system: System, initial: StoreContents) -> dict[str, Any]:
    """The recommended item ids of every user."""
    assert initial
    return fetch_lists(system)


def fetch_lists(system: System) -> dict[str, Any]:
    responses = {user: system.fetch_recommendations(user) for user in EVENTS}
    return {user: [item["item_id"] for item in response["items"]] for user, response in responses.items()}


def test_events_reach_every_store(system: System, initial: StoreContents) -> None:
    """Every valid event is in MongoDB and the warehouse exactly once, as is each text in Milvus and item in Neo4j."""
    event_count = len(USERS) * 5
    assert len(initial.mongo) == len(initial.warehouse) == len(initial.milvus) == event_count
    assert initial.mongo.keys() == initial.milvus.keys()
    assert len(initial.neo4j) == len(USERS) * 4
    assert initial.neo4j.keys() < initial.mongo.keys()
    assert sum(row[4] for row in initial.engagement) == event_count
    assert system.warehouse.stats.count_aggregate_differences() == 0


def test_malformed_messages_are_counted_by_reason(system: System, initial: StoreContents) -> None:
    """Messages that are not valid events are counted by reason, and every message is accounted for."""
    assert initial
    totals = system.warehouse.stats.read_totals(system.settings.kafka.topic)
    assert totals.dead_letters == REASONS
    assert totals.delivered == totals.valid + len(REASONS) == len(USERS) * 5 + len(REASONS)


def test_the_endpoint_serves_recommendations(system: System, lists: dict[str, Any]) -> None:
    """Every user gets new items that similar users chose, each with a text and a reason."""
    for user, payloads in EVENTS.items():
        purchased = {json.loads(payload).get("item_id") for payload in payloads}
        assert lists[user]
        assert not purchased & set(lists[user])
    response = system.fetch_recommendations(USERS[3])
    assert response["source"] == "similar_users"
    assert response["partial"] is False
    assert {item["source"] for item in response["items"]} >= {"similar_users"}
    assert all(item["text"] in TEXTS and item["reason"] for item in response["items"])


def test_an_unknown_user_gets_popular_items(system: System, lists: dict[str, Any]) -> None:
    """A user without a list gets the popular list, and the response says so."""
    assert lists
    response = system.fetch_recommendations(f"unknown user {ODD}")
    assert response["source"] == "popular"
    assert len(response["items"]) == len(ITEMS)


def test_publishing_again_changes_nothing(system: System, initial: StoreContents, lists: dict[str, Any]) -> None:
    """Events that are published again are duplicates and do not change stores, aggregates or lists."""
    system.publish(EVENTS, PUBLISHED)
    system.wait_until_quiesced()
    assert system.read_stores() == initial
    assert fetch_lists(system) == lists
    totals = system.warehouse.stats.read_totals(system.settings.kafka.topic)
    assert totals.valid == 2 * len(USERS) * 5
    assert system.warehouse.stats.count_events() == len(USERS) * 5


def delete_documents(system: System) -> int:
    """Delete all events in MongoDB, which only another ingest of the same range restores. Returns their number."""
    events = system.mongo[system.settings.mongo.database][system.settings.mongo.collection]
    return events.delete_many({}).deleted_count


def test_a_replay_ingests_a_range_again(system: System, initial: StoreContents) -> None:
    """A run triggered with from and to, as in the UI, restores what a store lost and does not move any offset."""
    assert delete_documents(system) == len(initial.mongo)
    offsets = [system.source.read_committed_offset(shard) for shard in range(system.shards)]
    minute = timedelta(minutes=1)
    conf = {"from": (PUBLISHED - minute).isoformat(), "to": (PUBLISHED + minute).isoformat()}
    assert system.trigger_and_wait("replay", {**conf, "dry_run": True}) == "success"
    assert system.read_stores().mongo == {}
    assert system.trigger_and_wait("replay", conf) == "success"
    assert system.read_stores() == initial
    assert [system.source.read_committed_offset(shard) for shard in range(system.shards)] == offsets


def test_a_backfill_replays_its_hours(system: System, initial: StoreContents) -> None:
    """A backfill of the hour of publishing restores what a store lost and does not move any offset."""
    assert delete_documents(system) == len(initial.mongo)
    offsets = [system.source.read_committed_offset(shard) for shard in range(system.shards)]
    hour = PUBLISHED.replace(minute=0)
    assert system.backfill("replay", hour, hour) == ["success"]
    assert system.read_stores() == initial
    assert [system.source.read_committed_offset(shard) for shard in range(system.shards)] == offsets


def test_a_backfill_restores_aggregates(system: System, initial: StoreContents) -> None:
    """Lost aggregates are restored by a backfill of their hours."""
    system.warehouse.database.execute("DELETE FROM engagement_hourly")
    hours = [hour_before(PUBLISHED, back) for back in range(5)]
    states = system.backfill("aggregate_engagement", min(hours), max(hours))
    assert len(states) == len(hours)
    assert set(states) == {"success"}
    assert system.read_stores().engagement == initial.engagement


def test_an_embedding_outage_delays_only_milvus(system: System, initial: StoreContents) -> None:
    """While the embedding server hangs, a new event reaches every other store; Milvus and the commit follow."""
    assert initial
    message = {
        "message_id": "late",
        "kind": "message",
        "item_id": ITEMS[0],
        "text": f"a text that was never embedded before {ODD}",
    }
    new_event = event_id(USERS[0], "late")
    offsets = system.committed_offsets()
    with system.pause("embed"):
        system.publish({USERS[0]: [make_event(0, **message)]}, NOW)
        others = {"mongo", "neo4j", "warehouse"}
        wait_for("the event in every store but Milvus", lambda: system.stores_with(new_event) == others)
        assert system.committed_offsets() == offsets
    wait_for("the event in Milvus", lambda: system.stores_with(new_event) == {*others, "milvus"})
    system.wait_until_quiesced()
    assert system.committed_offsets() != offsets


def test_a_trained_ranking_serves_the_next_lists(system: System, initial: StoreContents) -> None:
    """A ranking that its DAG has trained makes the next lists; their reasons name items that the user really has."""
    assert initial
    others = {f"other {number} {ODD}": _make_purchases(number) for number in range(60)}
    system.publish(others, NOW)
    system.wait_until_quiesced()
    assert system.trigger_and_wait("train_ranking", {}) == "success"
    user = f"other 3 {ODD}"
    system.publish({user: [_make_purchase(user, "last", ITEMS[1])]}, NOW)
    system.wait_until_quiesced()
    response = system.fetch_recommendations(user)
    own = {json.loads(payload)["text"] for payload in others[user]} | {TEXTS[1]}
    assert response["source"] == "learned"
    assert response["items"]
    assert not {item["text"] for item in response["items"]} & own
    reasons = [item["reason"] for item in response["items"] if item["source"] == "similar_items"]
    assert all(reason.removeprefix("because you chose ") in own for reason in reasons)


def _make_purchases(number: int) -> list[bytes]:
    """Five purchases of one group of items."""
    user = f"other {number} {ODD}"
    items = [ITEMS[(number % 2 + 2 * step + 2 * number) % len(ITEMS)] for step in range(5)]
    return [_make_purchase(user, str(step), item) for step, item in enumerate(items)]


def _make_purchase(user: str, message: str, item: str) -> bytes:
    fields = {
        "kind": "purchase",
        "occurred_at": PUBLISHED.isoformat(),
        "item_id": item,
        "text": TEXTS[ITEMS.index(item)],
    }
    return json.dumps({"user_id": user, "message_id": message, **fields}).encode()
