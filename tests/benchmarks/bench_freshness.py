"""The time from publishing an event to the user's new list in Redis, on an idle system with all servers and Airflow.

First the simulated shop is published and processed. Then, one at a time, a user buys the top item of their list; the
time ends when the list in Redis is newer than the event and no longer has the item. About 12 minutes.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import redis

sys.path.insert(0, str(Path(__file__).parents[2]))

from demo.publishing import publish_lines
from demo.routing import Router
from demo.screen import Screen
from demo.shop import Shop
from include.domain.recommendation_list import RecommendationList, list_key, unpack
from include.errors import TransientError
from include.sources.kafka_producer import Publisher
from tests.benchmarks.machine import Results, describe_machine, print_verdict, run_main, temporary_stack
from tests.e2e.system import TIMEOUT_S, System

TARGET_S = 45.0
_LIST_POLL_S = 0.05
_IDLE_POLL_S = 1.0
#: The next event is published after a random pause of up to this long, so that it is not in step with any polling.
_MAX_PAUSE_S = 5.0


def now_ms() -> int:
    """Returns the current time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class FreshnessTest:
    """One system, its Redis, and a producer that stays connected, like that of a real shop."""

    def __init__(self, system: System, screen: Screen) -> None:
        self._system = system
        self._screen = screen
        self._settings = system.settings
        self._router = Router(system.shards)
        self._redis = redis.Redis.from_url(system.settings.redis.url)
        self._publisher = Publisher(system.settings.kafka)

    def close(self) -> None:
        """Close all connections."""
        self._publisher.close()
        self._redis.close()

    def publish_shop(self, shop: Shop) -> None:
        """Publish the whole shop and wait for the lists."""
        publish_lines(shop.lines(datetime.now(UTC)), self._router, self._publisher, [0] * self._system.shards)
        self.wait_until_quiesced("the shop")

    def wait_until_quiesced(self, subject: str) -> None:
        """Wait until nothing is pending or running, and the lists reflect everything that was published."""
        self._wait(f"{subject} is processed and nothing is running", self._system.is_quiesced, _IDLE_POLL_S)

    def users(self) -> list[str]:
        """Returns the users whose list is based on similar users."""
        names = sorted(self._system.warehouse.activity.find_active_users(None))
        lists = {user: self._read_list(user) for user in names}
        return [user for user, current in lists.items() if current and current.source == "similar_users"]

    def measure(self, user: str, number: int) -> float:
        """Publish a purchase. Returns the seconds until the new list is in Redis."""
        item = self._top_item(user)
        body = {"user_id": user, "message_id": f"bench-{number}", "kind": "purchase", "item_id": item}
        line = msgspec.json.encode({**body, "occurred_at": datetime.now(UTC).isoformat()})
        route = self._router.route(line, number)
        started_at, published_at = time.perf_counter(), now_ms()
        self._publisher.send(route.shard, route.key, line)
        self._publisher.flush()
        self._wait(
            f"the new list of {user} is in Redis after event {number}",
            lambda: self._has_new_list(user, published_at, item),
            _LIST_POLL_S,
        )
        return time.perf_counter() - started_at

    def _top_item(self, user: str) -> str:
        current = self._read_list(user)
        if current is None:
            raise RuntimeError(f"the list of {user} has expired: the precompute did not refresh it in time")
        return current.items[0].item_id

    def _has_new_list(self, user: str, published_at: int, bought: str) -> bool:
        """A list that was rebuilt for another reason still has the item: only this event removes it."""
        current = self._read_list(user)
        if current is None or current.generated_at <= published_at:
            return False
        return all(item.item_id != bought for item in current.items)

    def _read_list(self, user: str) -> RecommendationList | None:
        packed = self._redis.get(list_key(self._settings.embed.generation.name, user))
        return unpack(packed) if isinstance(packed, bytes) else None

    def _wait(self, description: str, condition: Callable[[], bool], interval_s: float) -> None:
        started_at = time.monotonic()
        while not _check(condition):
            waited = time.monotonic() - started_at
            if waited > TIMEOUT_S:
                raise TimeoutError(f"timed out after {TIMEOUT_S} s, waiting until {description}")
            self._screen.progress(f"{waited:4.0f} s  waiting until {description}")
            time.sleep(interval_s)


def _check(condition: Callable[[], bool]) -> bool:
    """A server that is briefly unavailable counts as "not yet"."""
    try:
        return condition()
    except TransientError:
        return False


def measure_all(test: FreshnessTest, shop: Shop, count: int, screen: Screen, rng: random.Random) -> list[float]:
    """Measure ``count`` events, each of a different user. Returns the seconds of each."""
    test.publish_shop(shop)
    candidates = test.users()
    users = rng.sample(candidates, min(count, len(candidates)))
    seconds = []
    for number, user in enumerate(users, start=1):
        test.wait_until_quiesced("everything published so far")
        time.sleep(rng.uniform(0, _MAX_PAUSE_S))
        seconds.append(test.measure(user, number))
        screen.print(f"event {number:3} of {count}: {seconds[-1]:6.1f} s  ({describe_machine()})")
    return seconds


def percentile(values: list[float], share: float) -> float:
    """Returns the smallest value that is at least as large as this share of the values (nearest rank)."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10, help="events, one at a time (default: %(default)s)")
    parser.add_argument("--users", type=int, default=300, help="users of the shop (default: %(default)s)")
    parser.add_argument("--events", type=int, default=3_000, help="events of the shop (default: %(default)s)")
    return parser.parse_args()


def main() -> int:
    """Run the benchmark. Returns 1 if a new list never arrived."""
    options = parse_arguments()
    screen, results = Screen(), Results()
    shop = Shop(users=options.users, events=options.events, distinct_texts=max(120, options.events // 10))
    print(f"a shop of {shop.users:,} users and {shop.events:,} events; {describe_machine()}")
    seconds: list[float] = []
    with temporary_stack(screen) as stack:
        system = System(stack)
        test = FreshnessTest(system, screen)
        try:
            seconds = measure_all(test, shop, options.count, screen, random.Random(20260))
        except TimeoutError as error:
            results.fail(str(error))
        test.close()
        system.close()
    if seconds:
        p50, p95 = statistics.median(seconds), percentile(seconds, 0.95)
        print(f"published -> new list, {len(seconds)} events: p50 {p50:.1f} s, p95 {p95:.1f} s")
        print_verdict("p95", p95, TARGET_S, at_most=True, unit=" s")
    return results.exit_code()


if __name__ == "__main__":
    run_main(main)
