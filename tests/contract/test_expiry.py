"""Retention of events on the real servers: what was published too long ago leaves all four stores together."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from include.domain.batch import EVENT_SCHEMA, BatchMode, BatchRef
from include.domain.event import Event
from include.domain.offsets import Offsets
from include.errors import TransientError
from include.maintenance import open_kinds
from include.pipeline.expire import ExpirePorts, expire
from include.pipeline.maintain import maintain, select_kinds
from include.pipeline.reconcile import ReconcilePorts, Report, reconcile
from include.pipeline.repair import Repairer, claim_writes
from include.settings import (
    EmbedSettings,
    EnvironmentSettings,
    MilvusSettings,
    MongoSettings,
    Neo4jSettings,
    WarehouseSettings,
)
from include.stores.warehouse.warehouse import Warehouse
from tests.contract.batches import GENERATION, batch_of
from tests.contract.event_stores import NAMES, SCOPE, Stores
from tests.contract.processes import wait_until

pytestmark = pytest.mark.servers("mongo", "milvus", "neo4j", "postgres")

_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
_DIFFERENT = "the engagement must not change"


def _ports(stores: Stores, **sinks: Any) -> ExpirePorts:
    others = {name: sinks.get(name, stores.writes.sinks[name]) for name in NAMES if name != "warehouse"}
    return ExpirePorts(stores.warehouse.expiry, list(others.values()), wait_s=0)


def _publish(stores: Stores, days_ago: int, events: Sequence[Event]) -> None:
    """Have the newest message with these events published so many days ago."""
    stores.warehouse.database.execute(
        "UPDATE events SET published_on = (now() AT TIME ZONE 'UTC')::date - %(days)s WHERE event_id = ANY(%(ids)s)",
        {"days": days_ago, "ids": [event.event_id for event in events]},
    )


def _reconcile(stores: Stores, *, repair: bool = False) -> Report:
    ports = ReconcilePorts(
        stores.compared, stores.writes.ledger, stores.files, find_expired=stores.warehouse.expiry.find
    )
    with claim_writes("reconcile", stores.writes.ledger) as ref:
        return reconcile(SCOPE, ports, repair=Repairer(stores.compared, stores.writes, ref).repair if repair else None)


def _engagement(stores: Stores) -> list[tuple[Any, ...]]:
    """Every row after a recount of every hour."""
    stores.warehouse.engagement.recount_between(0, 4_000_000_000_000)
    return stores.warehouse.database.query(
        "SELECT hour, item_id, campaign_id, kind, events, users, value FROM engagement_hourly ORDER BY 1, 2, 3, 4"
    )


def _aged(stores: Stores) -> list[Event]:
    """Ten events older than 30 days, one of exactly 30 days, nineteen of an unknown day."""
    expired = [stores.event(number) for number in range(10)]
    _publish(stores, 31, expired)
    _publish(stores, 30, [stores.event(10)])
    return expired


def test_expired_events_leave_every_store(stores: Stores) -> None:
    """Engagement stays as it was, the users count as changed, and events of an unknown day count as published today."""
    expired = _aged(stores)
    before = _engagement(stores)
    assert stores.warehouse.expiry.count(30) == 10
    assert expire(30, _ports(stores)) == 10
    assert stores.changed_users() == {event.user_id for event in expired}
    report = _reconcile(stores)
    assert (report.events, report.found, report.expired) == (20, 0, 0)
    assert _engagement(stores) == before, _DIFFERENT
    assert stores.warehouse.stats.count_aggregate_differences() == 0
    assert (expire(30, _ports(stores)), stores.warehouse.expiry.count(1)) == (0, 1)
    assert expire(1, _ports(stores)) == 1
    assert _engagement(stores) == before, _DIFFERENT


def test_a_killed_run_is_completed(stores: Stores) -> None:
    """Until then reconcile neither reports the events that some stores have lost nor brings them back."""

    def fail(rows: pa.Table) -> int:
        raise TransientError("Milvus: down")

    _aged(stores)
    with pytest.raises(TransientError, match="down"):
        expire(30, _ports(stores, milvus=SimpleNamespace(delete=fail)))
    assert stores.mongo.count_documents({}) == 20
    assert stores.warehouse.stats.count_events() == 30
    report = _reconcile(stores, repair=True)
    assert (report.found, report.expired) == (0, 10)
    assert stores.mongo.count_documents({}) == 20
    assert expire(30, _ports(stores)) == 10
    report = _reconcile(stores)
    assert (report.events, report.found, report.expired) == (20, 0, 0)


def test_a_user_is_counted_once_in_an_hour(stores: Stores) -> None:
    """A user one of whose events of an hour has expired is counted with the others, until the last one has."""
    at = 1_700_000_000_000
    same = [Event(f"{stores.prefix}x", f"m{n}", "view", at, item_id="i", value=0.1) for n in range(3)]
    stores.writes.upsert("warehouse", batch_of(same).events, batch_of(same).ref)
    before = _engagement(stores)
    for event in same:
        _publish(stores, 31, [event])
        assert expire(30, _ports(stores)) == 1
        assert _engagement(stores) == before, _DIFFERENT


def test_a_redelivered_event_stays(stores: Stores) -> None:
    """The newest message counts: a later copy makes the event younger, an earlier one changes nothing, and neither
    counts as a change of the event.
    """
    expired = _aged(stores)
    now = datetime.now(UTC)
    touched = stores.warehouse.engagement.read_touched_hours()
    copies = _with_publish_time(expired[:2], now), _with_publish_time(expired[2:4], now - timedelta(days=90))
    for copy in copies:
        stores.writes.upsert("warehouse", copy, batch_of([]).ref)
    assert stores.changed_users() == set()
    assert stores.warehouse.engagement.read_touched_hours() == touched
    assert expire(30, _ports(stores)) == 8
    kept = stores.warehouse.database.query("SELECT event_id FROM events WHERE NOT revised")
    assert {event.event_id for event in expired[:2]} <= {event_id for (event_id,) in kept}


def test_a_newer_revision_brings_its_day(stores: Stores) -> None:
    """Whichever content wins, the event is as young as its newest message."""
    event = stores.event(0)
    _publish(stores, 31, [event])
    now = datetime.now(UTC)
    losing = _with_publish_time([stores.event(0, version=-1)], now)
    stores.writes.upsert("warehouse", losing, batch_of([]).ref)
    winning = _with_publish_time([stores.event(1, version=1)], now - timedelta(days=60))
    stores.writes.upsert("warehouse", winning, batch_of([]).ref)
    days = "SELECT version, (now() AT TIME ZONE 'UTC')::date - published_on FROM events WHERE event_id = %(id)s"
    assert stores.warehouse.database.query(days, {"id": event.event_id}) == [(0, 0)]
    assert stores.warehouse.database.query(days, {"id": stores.event(1).event_id}) == [(1, 60)]


def test_open_batches_are_waited_for(stores: Stores) -> None:
    """While a batch that may know nothing of the cut is open nothing is deleted; abandoned replays don't count."""
    _aged(stores)
    ledger = stores.warehouse.ledger
    replayed = ledger.claim_range(BatchRef("events", 0, 0, 5, BatchMode.RANGE))
    live = ledger.claim("events", 1, Offsets(0, 5), 5)
    assert live is not None
    for number in (2, 1):
        with pytest.raises(TransientError, match=f"{number} batches were not committed"):
            expire(30, _ports(stores))
        ledger.commit(live)
    assert stores.warehouse.ledger.read_cut() == 0
    stores.warehouse.database.execute("UPDATE pipeline.batches SET claimed_at = claimed_at - interval '25 hours'")
    assert list(ledger.find_open("events")) == [replayed]
    assert expire(30, _ports(stores)) == 10


def test_no_batch_is_claimed_meanwhile(warehouse_dsn: str) -> None:
    """Live batches and replays wait until the events are deleted."""
    settings = WarehouseSettings(warehouse_dsn)
    with (
        closing(Warehouse(settings)) as maintained,
        closing(Warehouse(settings)) as live,
        closing(Warehouse(settings)) as replaying,
        ThreadPoolExecutor(2) as pool,
    ):
        with maintained.expiry.pause_claims():
            claims: list[Future[BatchRef | None] | Future[BatchRef]] = [
                pool.submit(live.ledger.claim, "events", 0, Offsets(0, 5), 5),
                pool.submit(replaying.ledger.claim_range, BatchRef("events", 0, 0, 5, BatchMode.RANGE)),
            ]
            wait_until(lambda: maintained.database.query(_WAITING)[0][0] == 2, "both claims wait")
            assert maintained.expiry.count_running() == 0
        assert all(claim.result(30) is not None for claim in claims)


def test_the_cut_never_falls(warehouse_dsn: str) -> None:
    """What was deleted cannot come back, so a longer retention begins with what is left."""
    today = int(datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp() * 1000)
    with closing(Warehouse(WarehouseSettings(warehouse_dsn))) as warehouse:
        assert warehouse.ledger.read_cut() == 0
        for days, expected in ((90, 90), (30, 30), (60, 30)):
            warehouse.expiry.raise_cut(days)
            assert warehouse.ledger.read_cut() == today - expected * 86_400_000


@pytest.mark.servers("kafka")
def test_maintain_deletes_events_only_on_request(
    stores: Stores,
    warehouse_dsn: str,
    mongo_settings: MongoSettings,
    neo4j_settings: Neo4jSettings,
    shared_milvus_settings: MilvusSettings,
) -> None:
    """It is off by default, counts in a dry run, and deletes from every store that is registered."""
    _aged(stores)
    for days, expected in ((0, {}), (30, {"events": 10})):
        settings = _settings(warehouse_dsn, MILLRACE_KEEP_EVENTS_DAYS=str(days))
        settings.__dict__.update(mongo=mongo_settings, neo4j=neo4j_settings, milvus=shared_milvus_settings)
        for apply in (False, True):
            with open_kinds(settings) as kinds:
                chosen = select_kinds(kinds, ["events"])
                assert maintain(chosen, apply=apply, progress=lambda *_: None) == expected
            assert stores.mongo.count_documents({}) == (20 if days and apply else 30)
    report = _reconcile(stores)
    assert (report.events, report.found) == (20, 0)


def _settings(dsn: str, **variables: str) -> EnvironmentSettings:
    address = {"MILLRACE_WAREHOUSE_DSN": dsn, "MILLRACE_KAFKA_BOOTSTRAP": "127.0.0.1:1", "MILLRACE_BATCH_PATH": "/tmp"}
    settings = EnvironmentSettings({**address, **variables})
    settings.__dict__["embed"] = EmbedSettings("", model="test", revision="1", dimension=GENERATION.dimension)
    return settings


def _with_publish_time(events: Sequence[Event], time: datetime) -> pa.Table:
    table = batch_of(events).events
    column = EVENT_SCHEMA.get_field_index("published_at")
    times = pa.array([int(time.timestamp() * 1000)] * table.num_rows, pa.int64())
    return table.set_column(column, EVENT_SCHEMA.field("published_at"), times)
