"""The reader's process with a real Redis: what it serves, also while Redis is unavailable."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from include.domain.recommendation_list import MAX_ITEMS, RECENT_READERS_KEY, RecommendationList, list_key, pack
from include.serving.recent_readers import RETENTION_S
from include.settings import RedisSettings
from include.stores.redis import RedisLists
from tests.contract.processes import (
    GENERATION,
    POPULAR,
    RedisServer,
    Running,
    list_path,
    publish,
    reader,
    redis_server,
    shut_down,
    wait_until,
)
from tests.unit.serving.lists import NOW, make_list, to_json_items

ODD_USERS = [
    "a:b",
    "a b",
    "ünï",
    "用户",
    "a/b",
    "%",
    "50%25",
    "?x#y",
    "a+b",
    "*[x]\\",
    "x" * 128,
    "😀" * 128,
    "current",
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A reader with lists for ``u`` and for users with odd names. Tests may add users but must not change these."""
    folder = tmp_path_factory.mktemp("reader")
    with redis_server(folder) as server, reader(folder, server.url) as (process, client):
        publish(server, {user: make_list(user) for user in ("u", *ODD_USERS)})
        shared = Running(server, process, client)
        shared.wait_until_ready()
        yield shared


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Running]:
    """A reader and a Redis for a single test, with nothing published."""
    with redis_server(tmp_path) as server, reader(tmp_path, server.url) as (process, client):
        yield Running(server, process, client)


class TestAnswers:
    """Responses while Redis is up."""

    def test_the_published_list_is_served(self, running: Running) -> None:
        """The items with all their fields, the source and the timestamp are as the pipeline wrote them."""
        assert running.get_complete("u") == {
            "user_id": "u",
            "generated_at": "2026-03-01T09:31:12.345Z",
            "source": "similar_users",
            "partial": False,
            "items": to_json_items(make_list("u")),
        }
        assert running.get("u").headers["content-type"] == "application/json"

    @pytest.mark.parametrize("user", ODD_USERS)
    def test_odd_user_ids_work(self, running: Running, user: str) -> None:
        """Any user id, percent-encoded, gets the list that was published for it."""
        body = running.get_complete(user)
        assert body["user_id"] == user
        assert body["items"] == to_json_items(make_list(user))

    @pytest.mark.parametrize("limit", [1, 9, 11, 59, 60])
    def test_the_limit_cuts_the_list(self, running: Running, limit: int) -> None:
        """The response has as many items as requested, best first."""
        assert running.get_complete("u", f"?limit={limit}")["items"] == to_json_items(make_list("u"), limit)

    def test_a_short_list_is_served_in_full(self, running: Running) -> None:
        """A list with fewer items than requested, or none at all, is not an error."""
        publish(running.server, {"short": make_list("short", 3), "empty": RecommendationList(NOW, "similar_users", [])})
        assert running.get_complete("short", "?limit=60")["items"] == to_json_items(make_list("short", 3))
        assert running.get_complete("empty")["items"] == []

    @pytest.mark.parametrize("query", ["0", "61", "abc", "", "-1", "5&limit=5", "%C3%A9", "%FF"])
    def test_an_invalid_limit_is_rejected(self, running: Running, query: str) -> None:
        """Anything but a number from 1 to 60 gets a 422 that names the bounds."""
        response = running.get("u", f"?limit={query}")
        assert response.status_code == 422
        assert "from 1 to 60" in response.json()["error"]

    @pytest.mark.parametrize("segment", ["", "%00", "%FF", "x" * 129])
    def test_an_invalid_user_id_is_rejected(self, running: Running, segment: str) -> None:
        """Empty user ids, NUL, invalid UTF-8 and more than 128 characters get a 422."""
        response = running.client.get(f"/v1/users/{segment}/recommendations")
        assert response.status_code == 422
        assert "user id" in response.json()["error"]

    def test_an_unknown_user_gets_the_popular_list(self, running: Running) -> None:
        """A user without a list gets the popular one, and the source says so."""
        for limit in (1, 60):
            body = running.get_complete("nobody", f"?limit={limit}")
            assert (body["user_id"], body["source"], body["partial"]) == ("nobody", "popular", False)
            assert body["items"] == to_json_items(POPULAR, limit)
            assert body["generated_at"] == "2026-03-01T09:31:12.344Z"

    @pytest.mark.parametrize(
        "path",
        ["/", "/v1/users/u", "/v1/users/u/recommendations/", "/v2/users/u/recommendations", "/healthz/", "/metric"],
    )
    def test_unknown_paths_are_a_404(self, running: Running, path: str) -> None:
        """The error names the path of the lists, whatever the method."""
        for method in ("GET", "POST"):
            response = running.client.request(method, path)
            assert response.status_code == 404
            assert "/v1/users/{user_id}/recommendations" in response.json()["error"]

    @pytest.mark.parametrize("path", [list_path("u"), "/healthz", "/readyz", "/metrics"])
    def test_only_get_and_head_are_allowed(self, running: Running, path: str) -> None:
        """Other methods get a 405 that names the allowed ones; HEAD is GET without the body."""
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            response = running.client.request(method, path, content=b"")
            assert response.status_code == 405
            assert response.headers["allow"] == "GET, HEAD"
        got, head = running.client.get(path), running.client.head(path)
        assert head.status_code == got.status_code == 200
        assert head.headers["content-type"] == got.headers["content-type"]
        assert got.content
        assert not head.content

    def test_concurrent_requests_are_not_mixed_up(self, running: Running) -> None:
        """With many users and limits at once, every request gets its own list."""
        users = [f"crowd-{number}" for number in range(100)]
        publish(running.server, {user: make_list(user) for user in users})
        requests = [(user, 1 + (7 * number) % 60) for number, user in enumerate(users * 3)]
        with ThreadPoolExecutor(8) as pool:
            bodies = list(pool.map(lambda request: running.get_complete(request[0], f"?limit={request[1]}"), requests))
        assert [body["user_id"] for body in bodies] == [user for user, _ in requests]
        assert [body["items"] for body in bodies] == [to_json_items(make_list(user), limit) for user, limit in requests]

    def test_a_new_list_is_served_immediately(self, running: Running) -> None:
        """The first request after the pipeline writes a list gets it."""
        for at, name in ((NOW, "one"), (NOW + 1, "two")):
            publish(running.server, {"changing": make_list(name, at=at)})
            assert running.get_complete("changing")["items"] == to_json_items(make_list(name))


class TestForeignValues:
    """Values under a user's key that Millrace did not write."""

    @pytest.mark.parametrize(
        "value",
        [
            b"",
            b"short",
            b"<html>not a list</html>",
            pack(make_list("x"))[:-500],
            bytes(8) + b"\x94\x01\xa1x\x90" + b"\x91" * 9_999,
        ],
    )
    def test_an_unreadable_value_gives_the_popular_list(self, running: Running, value: bytes) -> None:
        """Bytes that are not a list count as an error, and the user is treated as having no list."""
        before = running.get_samples()['millrace_reader_redis_errors_total{kind="unreadable"}']
        with running.connect_to_redis() as client:
            client.set(list_key(GENERATION, "broken"), value)
        body = running.get_complete("broken", "?limit=60")
        assert (body["source"], body["items"]) == ("popular", to_json_items(POPULAR, MAX_ITEMS))
        assert running.get_samples()['millrace_reader_redis_errors_total{kind="unreadable"}'] == before + 1

    def test_a_key_of_another_type_gives_the_popular_list(self, running: Running) -> None:
        """If Redis returns an error for a key, only that user is served as if Redis were unavailable."""
        with running.connect_to_redis() as client:
            client.rpush(list_key(GENERATION, "queue"), "x")
        body = running.get("queue").json()
        assert (body["source"], body["partial"], body["missing"]) == ("popular", True, ["redis"])
        assert running.get_complete("u")["source"] == "similar_users"


class TestOperations:
    """Endpoints and behaviour for operators."""

    def test_metrics_count_requests_and_answers(self, running: Running) -> None:
        """Requests are counted by status and answers by source, with latencies in a histogram."""
        before = running.get_samples()
        running.get_complete("u")
        running.get_complete("nobody")
        running.get("u", "?limit=0")
        after = running.get_samples()
        increase = {name: after[name] - before.get(name, 0) for name in after}
        assert increase['millrace_reader_requests_total{status="422"}'] == 1
        assert increase['millrace_reader_answers_total{partial="false",source="similar_users"}'] == 1
        assert increase['millrace_reader_answers_total{partial="false",source="popular"}'] == 1
        assert increase["millrace_reader_request_seconds_count"] >= 4  # includes the first scrape
        assert (after["millrace_reader_breaker_open"], after["millrace_reader_generation_known"]) == (0, 1)
        assert running.client.get("/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")

    def test_it_becomes_ready_with_the_first_publication(self, own: Running) -> None:
        """Before that the process is healthy but not ready, and lists get a 503 with the reason."""
        wait_until(
            lambda: own.get_samples()["millrace_reader_breaker_open"] == 0,
            "the reader is connected to Redis",
            own.process,
        )
        assert own.client.get("/healthz").status_code == 200
        readiness = own.client.get("/readyz")
        assert (readiness.status_code, readiness.headers["retry-after"]) == (503, "1")
        assert readiness.json()["checks"]["redis"] == "ok"
        assert readiness.json() == {"status": "failing", "checks": {"redis": "ok", "generation": "not published"}}
        response = own.get("u")
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert "no recommendations have been published yet" in response.json()["error"]
        publish(own.server, {"u": make_list("u")})
        own.wait_until_ready()
        assert own.get_complete("u")["items"] == to_json_items(make_list("u"))

    def test_recent_readers_are_written_to_redis(self, running: Running) -> None:
        """Users who request a list are added to the sorted set, and those without a recent request are removed."""
        began = int(time.time())
        with running.connect_to_redis() as client:
            client.zadd(
                RECENT_READERS_KEY, {"long ago": began - RETENTION_S - 60, "a while ago": began - RETENTION_S // 2}
            )
            running.get("rejected", "?limit=0")
            running.get("active/ü")
            wait_until(
                lambda: client.zscore(RECENT_READERS_KEY, "active/ü") is not None, "the recent readers are written"
            )
            assert began <= int(client.zscore(RECENT_READERS_KEY, "active/ü")) <= time.time()
            assert client.zscore(RECENT_READERS_KEY, "rejected") is None
            wait_until(lambda: client.zscore(RECENT_READERS_KEY, "long ago") is None, "old entries are removed")
            assert client.zscore(RECENT_READERS_KEY, "a while ago") is not None
        adapter = RedisLists(RedisSettings(running.server.url))
        assert "active/ü" in adapter.read_recent_readers(began)
        adapter.close()

    def test_a_new_generation_is_served(self, own: Running) -> None:
        """Once another generation is current, its lists and its popular list are served without a restart."""
        publish(own.server, {"u": make_list("u"), "old": make_list("old")})
        own.wait_until_ready()
        next_popular = make_list("next-hit", source="popular")
        publish(own.server, {"u": make_list("next", at=NOW - 5)}, next_popular, "g2")
        body = own.get_until("u", lambda body: body["items"][0]["item_id"] == "next-0", "the new list is served")
        assert body["items"] == to_json_items(make_list("next"))
        own.get_until("old", lambda body: body["items"] == to_json_items(next_popular), "its popular list is served")


def break_redis(server: RedisServer, fault: str) -> None:
    """Kill Redis, or make it hang with its connections open."""
    server.process.signal(signal.SIGSTOP if fault == "hung" else signal.SIGKILL)
    if fault == "killed":
        server.process.kill()


def repair_redis(server: RedisServer, fault: str) -> None:
    """Let Redis continue, or restart it empty."""
    if fault == "hung":
        server.process.signal(signal.SIGCONT)
    else:
        server.restart()


@pytest.mark.parametrize("fault", ["killed", "hung"])
class TestRedisUnavailable:
    """Redis is killed or hangs."""

    def test_cached_lists_are_served(self, own: Running, fault: str) -> None:
        """Until Redis is back, users get their last valid list or the popular one, at any limit and marked partial."""
        publish(own.server, {"cached": make_list("cached"), "unseen": make_list("unseen")})
        own.wait_until_ready()
        assert own.get_complete("cached")["source"] == "similar_users"
        break_redis(own.server, fault)
        own.get_until("cached", lambda body: body["partial"], "the reader notices the outage")
        for user, limit, expected in (
            ("cached", 10, make_list("cached")),
            ("cached", 60, make_list("cached")),
            ("unseen", 3, POPULAR),
        ):
            body = own.get(user, f"?limit={limit}").json()
            assert (body["user_id"], body["partial"], body["missing"]) == (user, True, ["redis"])
            assert (body["source"], body["items"]) == (expected.source, to_json_items(expected, limit))
        self.assert_outage_is_reported(own)
        repair_redis(own.server, fault)
        publish(own.server, {"cached": make_list("newer", at=NOW + 1), "unseen": make_list("unseen")})
        assert own.get_complete("cached")["items"] == to_json_items(make_list("newer"))
        assert own.get_complete("unseen")["source"] == "similar_users"
        own.wait_until_ready()

    def assert_outage_is_reported(self, own: Running) -> None:
        """Assert that readiness and metrics show the outage."""
        assert own.client.get("/healthz").status_code == 200
        readiness = own.client.get("/readyz")
        assert (readiness.status_code, readiness.headers["retry-after"]) == (503, "1")
        assert readiness.json()["status"] == "failing"
        assert readiness.json()["checks"]["redis"] == "unavailable"
        assert own.get_samples()["millrace_reader_breaker_open"] == 1
        assert own.get_samples()['millrace_reader_redis_errors_total{kind="away"}'] >= 1

    def test_no_request_fails_during_an_outage(self, own: Running, fault: str) -> None:
        """Every request gets a list while Redis fails, while it is down and while it recovers."""
        publish(own.server, {"u": make_list("u")})
        own.wait_until_ready()
        stop = Event()

        def collect_statuses() -> set[int]:
            statuses = set()
            while not stop.is_set():
                statuses |= {own.get(user).status_code for user in ("u", "nobody")}
            return statuses

        with ThreadPoolExecutor(4) as pool:
            clients = [pool.submit(collect_statuses) for _ in range(4)]
            try:
                break_redis(own.server, fault)
                own.get_until("u", lambda body: body["partial"], "the reader notices the outage")
                repair_redis(own.server, fault)
                own.get_complete("u")
            finally:
                stop.set()
        assert [client.result() for client in clients] == [{200}] * 4

    def test_it_starts_without_redis(self, tmp_path: Path, fault: str) -> None:
        """With nothing cached it returns a 503 with Retry-After; once Redis is up, it serves without a restart."""
        with redis_server(tmp_path) as server:
            break_redis(server, fault)
            with reader(tmp_path, server.url) as (process, client):
                own = Running(server, process, client)
                response = own.get("u")
                assert (response.status_code, response.headers["retry-after"]) == (503, "1")
                assert "Redis is unavailable" in response.json()["error"]
                self.assert_outage_is_reported(own)
                repair_redis(server, fault)
                publish(server, {"u": make_list("u")})
                own.wait_until_ready()
                assert own.get_complete("u")["items"] == to_json_items(make_list("u"))

    def test_it_exits_on_sigterm(self, own: Running, fault: str) -> None:
        """Whatever the state of Redis, the reader exits with status 0 and leaves no process behind."""
        publish(own.server, {"u": make_list("u")})
        own.wait_until_ready()
        break_redis(own.server, fault)
        own.get("u")
        shut_down(own.process)


def test_an_empty_redis_is_not_ready(own: Running) -> None:
    """If Redis comes back without data, the cached popular list is served until the next publication."""
    publish(own.server, {"u": make_list("u")})
    own.wait_until_ready()
    own.server.restart()
    own.get_until("u", lambda body: not body["partial"] and body["source"] == "popular", "the popular list is served")
    assert own.client.get("/readyz").status_code == 503
    publish(own.server, {"u": make_list("u")})
    own.wait_until_ready()
    assert own.get_complete("u")["items"] == to_json_items(make_list("u"))


def test_recent_readers_are_written_on_shutdown(own: Running) -> None:
    """After SIGTERM every recent reader is in Redis."""
    publish(own.server, {"u": make_list("u")})
    own.wait_until_ready()
    users = {f"late-{number}".encode() for number in range(50)}
    for user in users:
        own.get(user.decode())
    shut_down(own.process)
    with own.connect_to_redis() as client:
        assert users <= set(client.zrange(RECENT_READERS_KEY, 0, -1))
