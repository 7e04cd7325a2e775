"""The Neo4j sink on the server: the common suite, and what it writes besides the relationships."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from include.bootstrap import SINKS
from include.domain.event import Event
from include.settings import Neo4jSettings
from include.sinks.neo4j import Neo4jSink
from tests.contract.batches import batch_of
from tests.contract.probes import Neo4jProbe
from tests.contract.sink_suite import ServerSinkSuite, Subject

pytestmark = pytest.mark.servers("neo4j")


class TestNeo4jSink(ServerSinkSuite):
    """The common suite on the server."""

    @pytest.fixture
    def subject(self, neo4j_settings: Neo4jSettings, unique: str) -> Iterator[Subject]:
        """A sink on the one graph there is; the prefix of users and items keeps tests apart."""
        with closing(Neo4jSink(neo4j_settings)) as sink, closing(Neo4jProbe(neo4j_settings, unique)) as probe:
            yield Subject(sink, probe, unique, SINKS["neo4j"])

    def open_unavailable(self) -> Neo4jSink:
        return Neo4jSink(Neo4jSettings("neo4j://127.0.0.1:1"))


@pytest.fixture
def probe(neo4j_settings: Neo4jSettings, unique: str) -> Iterator[Neo4jProbe]:
    """Reads the relationships of this test's users."""
    with closing(Neo4jProbe(neo4j_settings, unique)) as probe:
        yield probe


def test_relationships_have_kind_and_weight_and_items_have_campaigns(
    neo4j_settings: Neo4jSettings, probe: Neo4jProbe, unique: str
) -> None:
    """An item is linked to its campaign, or to none if the event has no campaign."""
    events = [
        Event(f"{unique}u", "1", "click", 0, item_id=f"{unique}a", campaign_id=f"{unique}c"),
        Event(f"{unique}u", "2", "return", 0, item_id=f"{unique}b"),
    ]
    with closing(Neo4jSink(neo4j_settings)) as sink:
        sink.upsert(batch_of(events))
    assert probe.details() == {
        events[0].event_id: ("click", 0.4, f"{unique}c"),
        events[1].event_id: ("return", 0.0, None),
    }


def test_shards_may_write_in_parallel(neo4j_settings: Neo4jSettings, probe: Neo4jProbe, unique: str) -> None:
    """Although shards share items, and a run may overlap with its own retry, nothing is lost or duplicated."""
    shards = [
        [
            Event(
                f"{unique}u{shard}-{n % 50}", f"{n}", "view", n, item_id=f"{unique}i{n % 20}", campaign_id=f"{unique}c"
            )
            for n in range(1_000)
        ]
        for shard in range(3)
    ]
    sinks = [Neo4jSink(neo4j_settings) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        counts = pool.map(lambda sink, events: sink.upsert(batch_of(events)), sinks, [*shards, *shards])
        assert list(counts) == [1_000] * 6
    for sink in sinks:
        sink.close()
    assert probe.read().keys() == {event.event_id for events in shards for event in events}
