"""A connection that is lost in the middle of a call with marked values: a transient error that quotes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from include.errors import TransientError
from include.settings import EmbedSettings, MongoSettings, Neo4jSettings, RedisSettings, WarehouseSettings
from tests.canary import CANARY, ODD, LeakCheck
from tests.contract.batches import batch_of
from tests.contract.cutting_proxy import CuttingProxy, cutting_proxy
from tests.contract.events import marked_event

if TYPE_CHECKING:
    from tests.contract.conftest import Servers

#: Returns a proxy in front of the server of that name.
type Cut = Callable[[str], AbstractContextManager[CuttingProxy]]


@pytest.fixture
def cut(servers: Servers, leak: LeakCheck) -> Cut:
    @contextmanager
    def start(server: str) -> Iterator[CuttingProxy]:
        servers.environment(server)
        with cutting_proxy(servers.stack.config.address(server), CANARY.encode()) as proxy:
            yield proxy
            assert proxy.cut

    return start


@pytest.mark.servers("postgres")
def test_postgres(leak: LeakCheck, cut: Cut, warehouse_dsn: str) -> None:
    """The rows of a lost transaction are not quoted."""
    from include.sinks.warehouse import WarehouseSink

    login, _, server = warehouse_dsn.rpartition("@")
    with cut("postgres") as proxy:
        dsn = f"{login}@{proxy.address}/{server.rpartition('/')[2]}"
        with closing(WarehouseSink(WarehouseSettings(dsn))) as sink:
            batch = batch_of([marked_event()])
            leak.fails(TransientError, "closed the connection unexpectedly", lambda: sink.upsert(batch), quoted=None)


@pytest.mark.servers("redis")
def test_redis(leak: LeakCheck, cut: Cut, redis_settings: RedisSettings) -> None:
    """The users and the lists of a lost pipeline are not quoted."""
    from include.stores.redis import RedisLists

    login = redis_settings.url.rpartition("@")[0]
    packed = bytes(8) + ODD.encode()
    with cut("redis") as proxy, closing(RedisLists(RedisSettings(f"{login}@{proxy.address}/0"))) as lists:
        leak.fails(TransientError, "ConnectionError", lambda: lists.publish("g", {ODD: packed}, {ODD: 60}), quoted=None)
        leak.fails(TransientError, "ConnectionError", lambda: lists.find_expiring("g", [ODD], 60), quoted=None)


@pytest.mark.servers("mongo")
def test_mongo(leak: LeakCheck, cut: Cut, unique: str) -> None:
    """The documents of a lost insert are not quoted."""
    from include.sinks.mongo import MongoSink

    with cut("mongo") as proxy:
        settings = MongoSettings(f"mongodb://{proxy.address}/?directConnection=true&timeoutMS=3000", database=unique)
        with closing(MongoSink(settings)) as sink:
            batch = batch_of([marked_event()])
            # The driver tries again until its deadline, which may end an attempt in the middle.
            kinds = "MongoDB: (AutoReconnect|NetworkTimeout)"
            leak.fails(TransientError, kinds, lambda: sink.upsert(batch), quoted=None)


@pytest.mark.servers("neo4j")
def test_neo4j(leak: LeakCheck, cut: Cut, neo4j_settings: Neo4jSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of a lost transaction are not quoted, nor does the driver log them before it tries again."""
    from include.sinks.neo4j import Neo4jSink

    monkeypatch.setattr("include.stores.neo4j.RETRY_S", 1)
    with cut("neo4j") as proxy:
        settings = replace(neo4j_settings, uri=f"bolt://{proxy.address}")
        with closing(Neo4jSink(settings)) as sink:
            batch = batch_of([marked_event()])
            leak.fails(TransientError, "Neo4j: ServiceUnavailable", lambda: sink.upsert(batch), quoted=None)


@pytest.mark.servers("embed")
def test_the_embedding_server(leak: LeakCheck, cut: Cut, servers: Servers) -> None:
    """The texts of a lost request are not quoted."""
    from include.embedders.openai import OpenAIEmbedder

    key = servers.environment("embed")["MILLRACE_EMBED_API_KEY"]
    with cut("embed") as proxy:
        settings: Any = EmbedSettings(f"http://{proxy.address}/v1", api_key=key)
        with closing(OpenAIEmbedder(settings)) as embedder:
            leak.fails(TransientError, "is not responding", lambda: embedder.embed([ODD]), quoted=None)
