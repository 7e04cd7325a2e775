"""From an event published to its user's new list in Redis, on an idle system: every server, Airflow included.

First the made-up shop is published and settles. Then, one at a time, a user buys the best item of their list; the
time ends when the packed list in Redis was made after the publish and has the item no more. About 12 minutes.
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

from demo.publish import publish
from demo.routing import Router
from demo.screen import Screen
from demo.shop import Shop
from include.domain.recommendation_list import RecommendationList, list_key, unpack
from include.errors import TransientError
from include.sources.kafka_producer import Publisher
from tests.benchmarks.machine import Results, conditions, ended_by_signals, own_stack, verdict
from tests.e2e.system import PATIENCE_S, System

TARGET_S = 45.0
_POLL_S = 0.05
_LOOK_S = 1.0
#: Up to so long after all is idle the next event comes, so that none keeps time with what is looked for regularly.
_PAUSE_S = 5.0


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Run:
    """One system, its Redis, and a producer that stays connected, as a shop's would."""

    def __init__(self, system: System, screen: Screen) -> None:
        self._system = system
        self._screen = screen
        self._settings = system.settings
        self._router = Router(system.shards)
        self._redis = redis.Redis.from_url(system.settings.redis.url)
        self._publisher = Publisher(system.settings.kafka)

    def close(self) -> None:
        """Give the connections back."""
        self._publisher.close()
        self._redis.close()

    def open_shop(self, shop: Shop) -> None:
        """Publish the whole shop and wait until every list is made."""
        there = [0] * self._system.shards
        publish(shop.lines(datetime.now(UTC)), self._router, self._publisher, there)
        self.settle("the shop")

    def settle(self, what: str) -> None:
        """Wait until nothing waits and nothing runs, and lists rest on all that was published."""
        self._wait(f"{what} is taken in and nothing runs", self._system.settled, _LOOK_S)

    def users(self) -> list[str]:
        """Users whose list rests on similar users."""
        names = sorted(self._system.warehouse.audience.active_users(None))
        return [user for user in names if (made := self._list(user)) and made.source == "similar_users"]

    def seconds(self, user: str, number: int) -> float:
        """From the publish of one event until its list is in Redis."""
        best = self._best(user)
        body = {"user_id": user, "message_id": f"bench-{number}", "kind": "purchase", "item_id": best}
        line = msgspec.json.encode({**body, "occurred_at": datetime.now(UTC).isoformat()})
        route = self._router.route(line, number)
        began, published = time.perf_counter(), now_ms()
        self._publisher.send(route.shard, route.key, line)
        self._publisher.flush()
        self._wait(f"event {number}: the new list of {user}", lambda: self._is_new(user, published, best), _POLL_S)
        return time.perf_counter() - began

    def _best(self, user: str) -> str:
        made = self._list(user)
        if made is None:
            raise RuntimeError(f"the list of {user} has ended: the precompute does not keep lists alive")
        return made.items[0].item_id

    def _is_new(self, user: str, published: int, bought: str) -> bool:
        """A list that was made later for another reason still has the item: only this event takes it out."""
        made = self._list(user)
        return made is not None and made.generated_at > published and all(i.item_id != bought for i in made.items)

    def _list(self, user: str) -> RecommendationList | None:
        packed = self._redis.get(list_key(self._settings.embed.generation.name, user))
        return unpack(packed) if isinstance(packed, bytes) else None

    def _wait(self, what: str, holds: Callable[[], bool], every: float) -> None:
        began = time.monotonic()
        while not _held(holds):
            waited = time.monotonic() - began
            if waited > PATIENCE_S:
                raise TimeoutError(f"not within {PATIENCE_S} s: {what}")
            self._screen.progress(f"{waited:4.0f} s  until {what}")
            time.sleep(every)


def _held(holds: Callable[[], bool]) -> bool:
    """A server that is away for a moment is asked again."""
    try:
        return holds()
    except TransientError:
        return False


def measured(run: Run, shop: Shop, count: int, screen: Screen, chance: random.Random) -> list[float]:
    """The seconds of each of ``count`` events, each of another user."""
    run.open_shop(shop)
    known = run.users()
    users = chance.sample(known, min(count, len(known)))
    seconds = []
    for number, user in enumerate(users, start=1):
        run.settle("what came before")
        time.sleep(chance.uniform(0, _PAUSE_S))
        seconds.append(run.seconds(user, number))
        screen.say(f"event {number:3} of {count}: {seconds[-1]:6.1f} s  ({conditions()})")
    return seconds


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of all do not exceed: of ten, p95 is the largest."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10, help="events, one at a time (default 10)")
    parser.add_argument("--users", type=int, default=300, help="users of the shop (default 300)")
    parser.add_argument("--events", type=int, default=3_000, help="events of the shop (default 3000)")
    return parser.parse_args()


def main() -> int:
    """Measure and print; 1 if an event's list never came."""
    asked = arguments()
    screen, results = Screen(), Results()
    shop = Shop(users=asked.users, events=asked.events, distinct_texts=max(120, asked.events // 10))
    print(f"a shop of {shop.users:,} users and {shop.events:,} events; {conditions()}")
    seconds: list[float] = []
    with own_stack(screen) as stack:
        system = System(stack)
        run = Run(system, screen)
        try:
            seconds = measured(run, shop, asked.count, screen, random.Random(20260))
        except TimeoutError as error:
            results.fail(str(error))
        run.close()
        system.close()
    if seconds:
        p50, p95 = statistics.median(seconds), percentile(seconds, 0.95)
        print(f"published -> new list, {len(seconds)} events: p50 {p50:.1f} s, p95 {p95:.1f} s")
        verdict("p95", p95, TARGET_S, at_most=True, unit=" s")
    return results.exit_code()


if __name__ == "__main__":
    ended_by_signals(main)
