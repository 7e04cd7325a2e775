"""The input ingested from an empty topic on, and then replayed: the time of both, and a digest of every store.

Both take the same way, slice after slice, as the DAG ``replay`` does. Every text already has a random vector, which
makes the first time shorter than with an embedding server. Fails if the replay changes a digest, an hour or a user.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from demo.publishing import publish_lines
from demo.routing import Router
from demo.screen import Screen
from include import bootstrap, reconciliation
from include.bootstrap import SINKS
from include.pipeline.replay import Bound, ReplayPosition, plan, replay
from include.pipeline.stage import StageLimits
from include.settings import EnvironmentSettings
from include.sources.kafka_producer import Publisher
from include.sources.kafka_topics import ensure_topics
from tests.benchmarks import rows, steps
from tests.benchmarks.machine import Results, describe_machine, print_rate, run_main, temporary_stack

_SERVERS = ("kafka", "postgres", "mongo", "milvus", "neo4j", "embed")


def publish(settings: EnvironmentSettings, lines: list[bytes]) -> None:
    """Publish the input, and store a random vector for each text."""
    ensure_topics(settings.kafka, settings.pipeline.shards)
    with closing(Publisher(settings.kafka)) as publisher:
        shards = settings.pipeline.shards
        publish_lines(iter(lines), Router(shards), publisher, [0] * shards, time.time_ns() // 1_000_000)
    texts = {event.text for event in rows.events(lines) if event.text is not None}
    steps.store_random_vectors(settings, sorted(texts))  # type: ignore[arg-type]


def replay_all(settings: EnvironmentSettings, run: str) -> int:
    """Replay every shard, one after the other. Returns the number of messages."""
    limits, messages = StageLimits(settings.pipeline.batch_bytes), 0
    with bootstrap.open_replay_ports(settings) as ports:
        for each in plan(ports.stage.source, range(settings.pipeline.shards), Bound(offset=0), None):
            position = ReplayPosition(ports.commit.files, run, each.shard)
            size = settings.pipeline.batch_size
            messages += replay(settings.kafka.topic, each, size, limits, ports, position, lambda *_: None)
    return messages


def digest_stores(settings: EnvironmentSettings) -> dict[str, tuple[int, str]]:
    """The number of events of each store, and a digest of their ids and contents."""
    digests = {}
    for name in SINKS:
        digest, events = hashlib.sha256(), 0
        with closing(reconciliation.open_inventory(name, settings)) as inventory:
            for chunk in inventory.scan():
                events += chunk.num_rows
                for column in chunk.select(["event_id", "version", "digest"]).to_pydict().values():
                    digest.update(repr(column).encode())
        digests[name] = events, digest.hexdigest()[:16]
    return digests


def clear_marks(settings: EnvironmentSettings) -> tuple[int, int]:
    """Clear the touched hours and the changed users. Returns their numbers."""
    with closing(bootstrap.open_warehouse(settings)) as warehouse:
        hours, users = warehouse.engagement.read_touched_hours(), warehouse.activity.read_changed_users()
        warehouse.engagement.clear_hours(hours)
        warehouse.activity.clear_changed_users(users)
    return len(hours), len(users)


def main() -> int:
    """Returns 1 if the replay changes anything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=60_000, help="lines of input (default: %(default)s)")
    options = parser.parse_args()
    screen, results = Screen(), Results()
    with temporary_stack(screen, *_SERVERS) as stack:
        settings = EnvironmentSettings({**os.environ, **stack.environment()})
        print(f"{options.events:,} lines of {rows.label()}; {describe_machine()}")
        publish(settings, rows.lines(options.events))
        times, digests = [], []
        for run in ("first ingest", "replay"):
            started = time.perf_counter()
            messages = replay_all(settings, run)
            times.append(time.perf_counter() - started)
            print_rate(run, messages, times[-1], "messages")
            digests.append(digest_stores(settings))
            marks = clear_marks(settings)
            if run == "replay" and (digests[0] != digests[1] or any(marks)):
                results.fail(f"the replay changed something: {digests}, {marks} hours and users")
        print(f"the replay took {times[1] / times[0]:.2f} of the first time")
        for name, (events, digest) in digests[1].items():
            print(f"  {name:<10} {events:>10,} events, digest {digest}")
    return results.exit_code()


if __name__ == "__main__":
    run_main(main)
