"""What anyone can do to the reader, and learn from it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import redis

from include.domain.recommendation_list import RECENT_READERS_KEY
from include.pipeline import precompute
from include.settings import RedisSettings
from include.stores.redis import RedisLists
from tests.contract.events import event
from tests.contract.processes import Running, list_path, reader, redis_server, wait_until
from tests.unit.pipeline.memory_precompute import Pipeline


def test_invented_users_cost_the_precompute_nothing(tmp_path: Path) -> None:
    """After requests for 2,000 invented users the precompute makes no list for them, and Redis has forgotten them."""
    pipeline = Pipeline(str(tmp_path / "files"))
    now_ms = round(time.time() * 1000)
    pipeline.store(event(user_id="known", occurred_at=now_ms))
    with (
        redis_server(tmp_path) as server,
        reader(tmp_path, server.url) as (process, http),
        closing(RedisLists(RedisSettings(server.url))) as lists,
        ThreadPoolExecutor(8) as pool,
        redis.Redis.from_url(server.url) as client,
    ):
        own = Running(server, process, http)
        pipeline.ports = replace(pipeline.ports, lists=lists)
        pipeline.now = now_ms
        pipeline.run()
        keys = set(client.keys())
        own.wait_until_ready()
        list(pool.map(own.get, ["known", *(f"invented-{number}" for number in range(2_000))]))
        wait_until(lambda: client.zcard(RECENT_READERS_KEY) == 2_001, "the readers are written")
        ref = precompute.select_users("run", pipeline.settings, pipeline.ports)
        assert ref.chunks == 0
        assert client.zrange(RECENT_READERS_KEY, 0, -1) == [b"known"]
        assert set(client.keys()) == keys | {RECENT_READERS_KEY}


def test_no_answer_says_where_or_what_redis_is(tmp_path: Path) -> None:
    """While Redis is down no answer names an address, a port, a driver or an error; the log does."""
    with redis_server(tmp_path) as server:
        server.process.kill()
        with reader(tmp_path, server.url) as (process, client):
            paths = ("/readyz", "/healthz", "/metrics", "/x", list_path("u"), list_path("u", "?limit=x"))
            responses = [client.request(method, path) for path in paths for method in ("GET", "POST")]
            for response in responses:
                answer = f"{response.headers} {response.text}".lower()
                details = (
                    "127.0.0.1",
                    "localhost",
                    str(server.port),
                    "errno",
                    "refused",
                    "hiredis",
                    "granian",
                    "python",
                )
                assert [detail for detail in details if detail in answer] == []
            assert client.get("/readyz").json()["checks"] == {"redis": "unavailable", "generation": "not published"}
            assert str(server.port) in process.read_log()
