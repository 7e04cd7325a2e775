"""The reader's process on a real Redis: what it serves, and what it does while Redis is away."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from include.domain.recommendation_list import ASKED_KEY, MAX_ITEMS, RecommendationList, list_key, pack
from include.serving.asked import KEPT_S
from include.settings import RedisSettings
from include.stores.redis import RedisLists
from tests.contract.processes import Process, RedisServer, Running, path_of, reader, redis_server, wait_until
from tests.unit.serving.lists import NOW, a_list, shown

GENERATION = "g1"
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
POPULAR = a_list("hit", source="popular", at=NOW - 1)


def publish(
    server: RedisServer,
    lists: Mapping[str, RecommendationList],
    popular: RecommendationList = POPULAR,
    generation: str = GENERATION,
) -> None:
    """As the pipeline does, by its own adapter."""
    adapter = RedisLists(RedisSettings(server.url))
    adapter.publish(generation, {user: pack(made) for user, made in lists.items()}, dict.fromkeys(lists, 3_600))
    adapter.publish_popular(generation, pack(popular), 3_600)
    adapter.make_current(generation)
    adapter.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A reader with lists for ``u`` and for users with odd names. Tests add users of their own and change nothing."""
    folder = tmp_path_factory.mktemp("reader")
    with redis_server(folder) as server, reader(folder, server.url) as (process, client):
        publish(server, {user: a_list(user) for user in ("u", *ODD_USERS)})
        made = Running(server, process, client)
        made.until_ready()
        yield made


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Running]:
    """A reader and a Redis of one test's own, nothing published."""
    with redis_server(tmp_path) as server, reader(tmp_path, server.url) as (process, client):
        yield Running(server, process, client)


class TestAnswers:
    """What is answered while all is well."""

    def test_the_list_comes_out_as_it_was_published(self, running: Running) -> None:
        """Items with score, text, source and reason, the list's source and its moment: all as the pipeline wrote it."""
        assert running.answer("u") == {
            "user_id": "u",
            "generated_at": "2026-03-01T09:31:12.345Z",
            "source": "similar_users",
            "partial": False,
            "items": shown(a_list("u")),
        }
        assert running.get("u").headers["content-type"] == "application/json"

    @pytest.mark.parametrize("user", ODD_USERS)
    def test_a_user_with_an_odd_name_has_a_list_too(self, running: Running, user: str) -> None:
        """Whatever the name, percent-encoded it leads to the list that was published for it."""
        found = running.answer(user)
        assert found["user_id"] == user
        assert found["items"] == shown(a_list(user))

    @pytest.mark.parametrize("limit", [1, 9, 11, 59, 60])
    def test_the_limit_cuts_the_list(self, running: Running, limit: int) -> None:
        """As many items as were asked for, the best first."""
        assert running.answer("u", f"?limit={limit}")["items"] == shown(a_list("u"), limit)

    def test_a_short_list_is_given_whole(self, running: Running) -> None:
        """Fewer items than were asked for are no error, nor is none at all."""
        publish(running.server, {"short": a_list("short", 3), "empty": RecommendationList(NOW, "similar_users", [])})
        assert running.answer("short", "?limit=60")["items"] == shown(a_list("short", 3))
        assert running.answer("empty")["items"] == []

    @pytest.mark.parametrize("query", ["0", "61", "abc", "", "-1", "5&limit=5", "%C3%A9", "%FF"])
    def test_another_limit_is_refused(self, running: Running, query: str) -> None:
        """What is no number from 1 to 60 is a 422 that says so."""
        response = running.get("u", f"?limit={query}")
        assert response.status_code == 422
        assert "from 1 to 60" in response.json()["error"]

    @pytest.mark.parametrize("segment", ["", "%00", "%FF", "x" * 129])
    def test_a_user_that_cannot_be_is_refused(self, running: Running, segment: str) -> None:
        """No name, NUL, no UTF-8 and more than 128 characters are a 422."""
        response = running.client.get(f"/v1/users/{segment}/recommendations")
        assert response.status_code == 422
        assert "user id" in response.json()["error"]

    def test_an_unknown_user_gets_the_popular_list(self, running: Running) -> None:
        """Who has no list is answered with what everybody likes, and the source says so."""
        for limit in (1, 60):
            found = running.answer("nobody", f"?limit={limit}")
            assert (found["user_id"], found["source"], found["partial"]) == ("nobody", "popular", False)
            assert found["items"] == shown(POPULAR, limit)
            assert found["generated_at"] == "2026-03-01T09:31:12.344Z"

    @pytest.mark.parametrize(
        "path",
        ["/", "/v1/users/u", "/v1/users/u/recommendations/", "/v2/users/u/recommendations", "/healthz/", "/metric"],
    )
    def test_what_is_not_there_is_a_404(self, running: Running, path: str) -> None:
        """Another path says where the lists are, whatever the method."""
        for method in ("GET", "POST"):
            response = running.client.request(method, path)
            assert response.status_code == 404
            assert "/v1/users/{user_id}/recommendations" in response.json()["error"]

    @pytest.mark.parametrize("path", [path_of("u"), "/healthz", "/readyz", "/metrics"])
    def test_only_get_and_head(self, running: Running, path: str) -> None:
        """Another method is a 405 that names those two; HEAD is a GET without the body."""
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            response = running.client.request(method, path, content=b"")
            assert response.status_code == 405
            assert response.headers["allow"] == "GET, HEAD"
        got, head = running.client.get(path), running.client.head(path)
        assert head.status_code == got.status_code == 200
        assert head.headers["content-type"] == got.headers["content-type"]
        assert got.content
        assert not head.content

    def test_every_caller_gets_the_answer_to_its_own_question(self, running: Running) -> None:
        """Many who ask at once for many users and limits are not mixed up."""
        users = [f"crowd-{number}" for number in range(100)]
        publish(running.server, {user: a_list(user) for user in users})
        asked = [(user, 1 + (7 * number) % 60) for number, user in enumerate(users * 3)]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda each: running.answer(each[0], f"?limit={each[1]}"), asked))
        assert [answer["user_id"] for answer in found] == [user for user, _ in asked]
        assert [answer["items"] for answer in found] == [shown(a_list(user), limit) for user, limit in asked]

    def test_a_newer_list_is_served_at_once(self, running: Running) -> None:
        """The next request after the pipeline wrote a list gets it."""
        for at, name in ((NOW, "one"), (NOW + 1, "two")):
            publish(running.server, {"changing": a_list(name, at=at)})
            assert running.answer("changing")["items"] == shown(a_list(name))


class TestForeignValues:
    """What is under a user's key is not always a list of ours."""

    @pytest.mark.parametrize(
        "value",
        [
            b"",
            b"short",
            b"<html>no list</html>",
            pack(a_list("x"))[:-500],
            bytes(8) + b"\x94\x01\xa1x\x90" + b"\x91" * 9_999,
        ],
    )
    def test_an_unreadable_value_gives_the_popular_list(self, running: Running, value: bytes) -> None:
        """Bytes that are no list are as good as none, and are counted."""
        before = running.samples()['millrace_reader_redis_errors_total{kind="unreadable"}']
        with running.probe() as probe:
            probe.set(list_key(GENERATION, "broken"), value)
        found = running.answer("broken", "?limit=60")
        assert (found["source"], found["items"]) == ("popular", shown(POPULAR, MAX_ITEMS))
        assert running.samples()['millrace_reader_redis_errors_total{kind="unreadable"}'] == before + 1

    def test_a_key_of_another_type_gives_the_popular_list(self, running: Running) -> None:
        """Where Redis refuses to read a key, this user alone is answered as if Redis were away."""
        with running.probe() as probe:
            probe.rpush(list_key(GENERATION, "queue"), "x")
        found = running.get("queue").json()
        assert (found["source"], found["partial"], found["missing"]) == ("popular", True, ["redis"])
        assert running.answer("u")["source"] == "similar_users"


class TestPages:
    """What is for those who run it."""

    def test_metrics_count_what_was_answered(self, running: Running) -> None:
        """Requests by status, answers by source, and the time they took; in the text format of Prometheus."""
        before = running.samples()
        running.answer("u")
        running.answer("nobody")
        running.get("u", "?limit=0")
        after = running.samples()
        counted = {name: after[name] - before.get(name, 0) for name in after}
        assert counted['millrace_reader_requests_total{status="422"}'] == 1
        assert counted['millrace_reader_answers_total{source="similar_users",partial="false"}'] == 1
        assert counted['millrace_reader_answers_total{source="popular",partial="false"}'] == 1
        assert counted["millrace_reader_request_seconds_count"] >= 4  # the first look included
        assert (after["millrace_reader_breaker_open"], after["millrace_reader_generation_known"]) == (0, 1)
        assert running.client.get("/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")

    def test_it_is_ready_with_the_first_publication(self, own: Running) -> None:
        """Before it, the process lives, but it is not ready and lists are a 503 that says why; then all is served."""
        wait_until(lambda: own.samples()["millrace_reader_breaker_open"] == 0, "Redis is reached", own.process)
        assert own.client.get("/healthz").status_code == 200
        waiting = own.client.get("/readyz")
        assert (waiting.status_code, waiting.headers["retry-after"]) == (503, "1")
        assert waiting.json()["checks"]["redis"] == "ok"
        assert "precompute" in waiting.json()["checks"]["generation"]
        none = own.get("u")
        assert (none.status_code, none.headers["retry-after"]) == (503, "1")
        assert "no recommendations were published yet" in none.json()["error"]
        publish(own.server, {"u": a_list("u")})
        own.until_ready()
        assert own.answer("u")["items"] == shown(a_list("u"))

    def test_who_asked_is_told_to_redis(self, running: Running) -> None:
        """Users whose list was asked for stand in the sorted set, and who asked long ago is forgotten."""
        began = int(time.time())
        with running.probe() as probe:
            probe.zadd(ASKED_KEY, {"long ago": began - KEPT_S - 60, "a while ago": began - KEPT_S // 2})
            running.get("refused", "?limit=0")
            running.get("asking/ü")
            wait_until(lambda: probe.zscore(ASKED_KEY, "asking/ü") is not None, "Redis is told who asked")
            assert began <= int(probe.zscore(ASKED_KEY, "asking/ü")) <= time.time()
            assert probe.zscore(ASKED_KEY, "refused") is None
            wait_until(lambda: probe.zscore(ASKED_KEY, "long ago") is None, "who asked long ago is forgotten")
            assert probe.zscore(ASKED_KEY, "a while ago") is not None
        adapter = RedisLists(RedisSettings(running.server.url))
        assert "asking/ü" in adapter.asked_since(began)
        adapter.close()

    def test_a_new_generation_is_taken_up(self, own: Running) -> None:
        """Once another generation is current, its lists and its popular list are served, without a restart."""
        publish(own.server, {"u": a_list("u"), "left": a_list("left")})
        own.until_ready()
        next_popular = a_list("next-hit", source="popular")
        publish(own.server, {"u": a_list("next", at=NOW - 5)}, next_popular, "g2")
        found = own.until("u", lambda found: found["items"][0]["item_id"] == "next-0", "the second one is served")
        assert found["items"] == shown(a_list("next"))
        own.until("left", lambda found: found["items"] == shown(next_popular), "its popular list is served")


def hurt(server: RedisServer, how: str) -> None:
    """Redis is killed, or hangs with its connections open."""
    server.process.signal(signal.SIGSTOP if how == "hung" else signal.SIGKILL)
    if how == "killed":
        server.process.end()


def heal(server: RedisServer, how: str) -> None:
    """It goes on, or starts anew and empty."""
    if how == "hung":
        server.process.signal(signal.SIGCONT)
    else:
        server.restart()


@pytest.mark.parametrize("how", ["killed", "hung"])
class TestRedisAway:
    """Redis is killed, or hangs."""

    def test_what_was_known_is_served(self, own: Running, how: str) -> None:
        """The user's last good list or the popular one, at any limit, marked as partial; then all is as before."""
        publish(own.server, {"known": a_list("known"), "unseen": a_list("unseen")})
        own.until_ready()
        assert own.answer("known")["source"] == "similar_users"
        hurt(own.server, how)
        own.until("known", lambda found: found["partial"], "the reader notices")
        for user, limit, expected in (
            ("known", 10, a_list("known")),
            ("known", 60, a_list("known")),
            ("unseen", 3, POPULAR),
        ):
            found = own.get(user, f"?limit={limit}").json()
            assert (found["user_id"], found["partial"], found["missing"]) == (user, True, ["redis"])
            assert (found["source"], found["items"]) == (expected.source, shown(expected, limit))
        self.assert_told(own)
        heal(own.server, how)
        publish(own.server, {"known": a_list("newer", at=NOW + 1), "unseen": a_list("unseen")})
        assert own.answer("known")["items"] == shown(a_list("newer"))
        assert own.answer("unseen")["source"] == "similar_users"
        own.until_ready()

    def assert_told(self, own: Running) -> None:
        """The outage is seen by those who look."""
        assert own.client.get("/healthz").status_code == 200
        ready = own.client.get("/readyz")
        assert (ready.status_code, ready.headers["retry-after"]) == (503, "1")
        assert ready.json()["checks"]["redis"] != "ok"
        assert own.samples()["millrace_reader_breaker_open"] == 1
        assert own.samples()['millrace_reader_redis_errors_total{kind="away"}'] >= 1

    def test_nobody_is_refused_meanwhile(self, own: Running, how: str) -> None:
        """Whoever asks while Redis goes, while it is away and while it comes back gets a list."""
        publish(own.server, {"u": a_list("u")})
        own.until_ready()
        over = Event()

        def ask() -> set[int]:
            seen = set()
            while not over.is_set():
                seen |= {own.get(user).status_code for user in ("u", "nobody")}
            return seen

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask) for _ in range(4)]
            try:
                hurt(own.server, how)
                own.until("u", lambda found: found["partial"], "the reader notices")
                heal(own.server, how)
                own.answer("u")
            finally:
                over.set()
        assert [each.result() for each in asking] == [{200}] * 4

    def test_it_starts_without_redis(self, tmp_path: Path, how: str) -> None:
        """Knowing nothing it says 503 and when to come again; once Redis is there, it serves without a restart."""
        with redis_server(tmp_path) as server:
            hurt(server, how)
            with reader(tmp_path, server.url) as (process, client):
                own = Running(server, process, client)
                refused = own.get("u")
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
                assert "Redis is away" in refused.json()["error"]
                self.assert_told(own)
                heal(server, how)
                publish(server, {"u": a_list("u")})
                own.until_ready()
                assert own.answer("u")["items"] == shown(a_list("u"))

    def test_it_ends_on_sigterm(self, own: Running, how: str) -> None:
        """Whatever became of Redis, the reader ends with status 0 and leaves no process behind."""
        publish(own.server, {"u": a_list("u")})
        own.until_ready()
        hurt(own.server, how)
        own.get("u")
        ended(own.process)


def ended(process: Process) -> None:
    """Ask it to end, and see that all of it did, as it should."""
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(30) == 0, process.log()
    with pytest.raises(ProcessLookupError):
        process.signal(signal.SIGCONT)
    assert "Traceback" not in process.log()


def test_an_empty_redis_is_not_ready(own: Running) -> None:
    """A Redis that came back without its data is no reason to refuse: the popular list is served until the next run."""
    publish(own.server, {"u": a_list("u")})
    own.until_ready()
    own.server.restart()
    own.until("u", lambda found: not found["partial"] and found["source"] == "popular", "the popular list is served")
    assert own.client.get("/readyz").status_code == 503
    publish(own.server, {"u": a_list("u")})
    own.until_ready()
    assert own.answer("u")["items"] == shown(a_list("u"))


def test_it_tells_who_asked_before_it_ends(own: Running) -> None:
    """SIGTERM ends it with status 0, without a process left, and with nobody forgotten who asked."""
    publish(own.server, {"u": a_list("u")})
    own.until_ready()
    users = {f"late-{number}".encode() for number in range(50)}
    for user in users:
        own.get(user.decode())
    ended(own.process)
    with own.probe() as probe:
        assert users <= set(probe.zrange(ASKED_KEY, 0, -1))
