"""Ingest, aggregation and precompute, step by step, against each server's own bulk writer in the same run.

1. Each step separately: every staged batch goes through each sink and through the server's own writer in turn, into
   separate empty stores.
2. Ingest without embedding (every text already has a random vector) into empty stores: for each batch stage, all four
   stores in parallel, commit. Then the four plain writers in parallel, as the limit of the machine.
3. The aggregation of every touched hour, popular items, and the steps of the precompute.

Airflow's own overhead is not included: no task is started.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from demo.publishing import publish_lines
from demo.recount import InputSummary, open_input_events
from demo.routing import Router
from demo.screen import Screen
from include import bootstrap
from include.domain import ranking
from include.domain.batch import BatchRef, Record, events_table
from include.pipeline import precompute
from include.pipeline.aggregate import aggregate_touched
from include.pipeline.commit import commit
from include.pipeline.embed import EmbedPorts, embed
from include.pipeline.stage import StagePorts, claim, stage
from include.ports import Sink, Validator
from include.sources.kafka_producer import Publisher
from include.sources.kafka_topics import ensure_topics
from stack.stack import Stack
from tests.benchmarks import rows, steps
from tests.benchmarks.machine import (
    Clock,
    Results,
    describe_machine,
    print_rate,
    print_verdict,
    run_main,
    temporary_stack,
)
from tests.benchmarks.plain import NAMES, PlainWriter, delete_graph, expected_ids, open_plain_writer

TARGET = 0.8
_SERVERS = ("kafka", "postgres", "mongo", "milvus", "neo4j", "redis")
_TOPIC = "bench"


@dataclass(frozen=True)
class InMemoryLines:
    """Lines in memory."""

    content: Sequence[bytes]
    label: str

    def lines(self) -> Iterator[bytes]:
        """Yield every line, starting from the first one."""
        return iter(self.content)


@dataclass(frozen=True)
class Input(InMemoryLines):
    """The lines with their publishing time (ms since 1970) and the expected counts."""

    published_at: int
    summary: InputSummary

    def texts(self) -> list[str]:
        """Returns the distinct texts."""
        return list(dict.fromkeys(event.text for event in rows.events(self.content) if event.text is not None))


def read_input(count: int, folder: Path, shards: int) -> Input:
    """Read the first ``count`` lines and work out the expected counts from them."""
    source, published_at = InMemoryLines(rows.lines(count), rows.label()), time.time_ns() // 1_000_000
    with open_input_events(folder / "recount.sqlite") as input_events:
        summary = input_events.load(source, shards, published_at, lambda _: None)
    return Input(source.content, source.label, published_at, summary)


def warm_up_validator(source: InMemoryLines) -> Validator:
    """Returns a validator that has seen a first batch: Airflow also loads its library before a task starts."""
    validator = bootstrap.build_validator()
    events = islice(rows.events(source.lines()), 100)
    validator.validate(
        events_table((Record(0, offset, event.occurred_at, None, None), event) for offset, event in enumerate(events))
    )
    return validator


@dataclass
class Staging:
    """The duration and row counts of the steps before the stores."""

    clock: Clock = field(default_factory=Clock)
    embedding: Clock = field(default_factory=Clock)
    delivered: int = 0
    events: int = 0


@dataclass(frozen=True)
class Bench:
    """What every part of the benchmark needs."""

    stack: Stack
    settings: steps.Settings
    source: Input
    validator: Validator
    screen: Screen
    results: Results

    def create_stores(self, name: str) -> steps.Settings:
        """Create empty stores and a vector for every text."""
        settings = steps.create_stores(self.stack, self.settings, name)
        steps.store_random_vectors(settings, self.source.texts())
        return settings

    def stage_batches(self, settings: steps.Settings, staging: Staging) -> Iterator[BatchRef]:
        """Stage batch after batch until the topic is drained; commit each one before asking for the next."""
        files = bootstrap.open_files(settings)
        no_embedder = steps.NoEmbedder(settings.embed.generation)
        for shard in range(settings.pipeline.shards):
            while True:
                with (
                    closing(bootstrap.open_source(settings)) as source,
                    closing(bootstrap.open_dead_letters(settings)) as letters,
                    closing(bootstrap.open_warehouse(settings)) as warehouse,
                ):
                    versions, ledger = warehouse.stored_versions, warehouse.ledger
                    ports = StagePorts(source, letters, self.validator, versions, ledger, files)
                    with staging.clock.measure():
                        ref = claim(settings.kafka.topic, shard, settings.pipeline.batch_size, ports)
                        if ref is None:
                            break
                        ref, counts = stage(ref, ports)
                    with staging.embedding.measure():
                        embed(ref, EmbedPorts(files, no_embedder, warehouse.text_vectors))
                staging.delivered += counts.delivered
                staging.events += counts.valid - counts.dropped
                self.screen.progress(f"{staging.delivered:,} of {len(self.source.content):,} lines staged")
                yield ref


def publish_all(bench: Bench) -> None:
    """Publish the whole input."""
    kafka, shards = bench.settings.kafka, bench.settings.pipeline.shards
    ensure_topics(kafka, shards)
    publisher = Publisher(kafka)
    started_at = time.perf_counter()
    publish_lines(bench.source.lines(), Router(shards), publisher, [0] * shards, bench.source.published_at)
    print_rate("publish", len(bench.source.content), time.perf_counter() - started_at)
    publisher.close()


def warm_up(bench: Bench) -> None:
    """Write the first batch to throw-away stores, so that a cold JVM does not slow down whatever is measured first."""
    settings = bench.create_stores("warm")
    plain = steps.plain_stores(settings)
    ref = next(bench.stage_batches(settings, Staging()))
    for name in NAMES:
        bench.screen.progress(f"warming up {name}")
        writer = open_plain_writer(name, plain)
        with closing(bootstrap.open_sink(name, settings)) as sink:
            steps.SinkTiming().compare(
                steps.make_upsert_step(name, settings, sink, ref), writer, steps.read_batch(settings, ref)
            )
        writer.close()
    delete_graph(settings.neo4j)


def measure_separately(bench: Bench) -> dict[str, steps.SinkTiming]:
    """Part 1: one step at a time, each sink against the server's own writer."""
    settings = bench.create_stores("alone")
    plain, staging = steps.plain_stores(settings), Staging()
    timings, refs = {"warehouse": steps.SinkTiming()}, []
    writer = open_plain_writer("warehouse", plain)
    with (
        closing(bootstrap.open_sink("warehouse", settings)) as sink,
        closing(bootstrap.open_warehouse(settings)) as warehouse,
    ):
        for ref in bench.stage_batches(settings, staging):
            # The warehouse comes first: staging reads the stored versions from it. The files stay for the others.
            _compare(bench, "warehouse", timings["warehouse"], settings, sink, writer, ref)
            warehouse.ledger.commit(ref)
            refs.append(ref)
    plain_counts = {"warehouse": _close(writer)}
    for name in ("mongo", "neo4j", "milvus"):  # Milvus last, because of its work in the background
        timings[name] = steps.SinkTiming()
        writer = open_plain_writer(name, plain)
        with closing(bootstrap.open_sink(name, settings)) as sink:
            sink.count()  # connects
            for number, ref in enumerate(refs, start=1):
                bench.screen.progress(f"{name}: batch {number} of {len(refs)}")
                _compare(bench, name, timings[name], settings, sink, writer, ref)
        plain_counts[name] = _close(writer)
    bench.screen.end_progress()
    print_rate("stage", staging.delivered, staging.clock.seconds)
    print_rate("embed, known texts", staging.events, staging.embedding.seconds)
    for name in NAMES:
        _print_timing(name, timings[name])
    _check_counts(bench, "alone", settings)
    for name in NAMES:
        ids = set().union(*(expected_ids(name, steps.read_batch(settings, ref).events) for ref in refs))
        bench.results.expect_equal(f"rows of the plain writer for {name}", plain_counts[name], len(ids))
    return timings


def _compare(
    bench: Bench,
    name: str,
    timing: steps.SinkTiming,
    settings: steps.Settings,
    sink: Sink,
    writer: PlainWriter,
    ref: BatchRef,
) -> None:
    if not timing.compare(steps.make_upsert_step(name, settings, sink, ref), writer, steps.read_batch(settings, ref)):
        bench.results.fail(f"{name} and the plain writer wrote different numbers of rows of {ref.batch_id}")


def _close(writer: PlainWriter) -> int:
    count = writer.count()
    writer.close()
    return count


def _print_timing(name: str, timing: steps.SinkTiming) -> None:
    sink, plain = timing.rows / timing.sink_s, timing.rows / timing.plain_s
    print(f"upsert_{name:27} {sink:11,.0f} rows/s  plain writer {plain:9,.0f} rows/s  ratio {timing.ratio:.2f}")


def _check_counts(bench: Bench, part: str, settings: steps.Settings) -> None:
    expected = bench.source.summary.expected.stores
    for name in NAMES:
        bench.results.expect_equal(f"events in {name} ({part})", steps.count_events(name, settings), expected[name])


def measure_in_parallel(bench: Bench, slowest: tuple[str, float]) -> steps.Settings:
    """Part 2: the whole ingest of every batch, and the four plain writers in parallel on the same rows."""
    settings, staging, clock = bench.create_stores("together"), Staging(), Clock()
    plain = steps.plain_stores(settings)
    refs, task_seconds = [], dict.fromkeys(NAMES, 0.0)
    with steps.start_workers() as workers:
        workers.run_all(steps.create_schema, settings)
        for ref in bench.stage_batches(settings, staging):
            refs.append(ref)
            steps.copy_batch(settings, plain, ref)
            with clock.measure():
                seconds = workers.run_all(steps.upsert_batch, settings, ref)
                _commit(settings, ref)
            task_seconds = {name: task_seconds[name] + seconds[name] for name in NAMES}
        bench.screen.end_progress()
        plain_parallel = _run_plain_writers(bench, plain, refs, workers)
    total = staging.clock.seconds + clock.seconds
    print_rate("ingest without embedding", staging.events, total)
    print_rate("  of which staging", staging.events, staging.clock.seconds)
    print_rate("  of which stores and commit", staging.events, clock.seconds)
    print("  task seconds: " + ", ".join(f"{name} {task_seconds[name]:.2f}" for name in NAMES))
    print_rate("four plain writers in parallel", staging.events, plain_parallel)
    _check_counts(bench, "together", settings)
    name, seconds_alone = slowest
    print_verdict(f"ingest without embedding / slowest plain writer alone ({name})", seconds_alone / total, TARGET)
    print(f"ingest without embedding / four plain writers in parallel: {plain_parallel / total:.2f}")
    return settings


def _commit(settings: steps.Settings, ref: BatchRef) -> None:
    with bootstrap.open_commit_ports(settings) as ports:
        commit(ref, ports)


def _run_plain_writers(
    bench: Bench, settings: steps.Settings, refs: Sequence[BatchRef], workers: steps.Workers
) -> float:
    clock = Clock()
    for number, ref in enumerate(refs, start=1):
        bench.screen.progress(f"plain writers in parallel: batch {number} of {len(refs)}")
        workers.run_all(steps.prepare_plain, settings, ref)
        with clock.measure():
            workers.run_all(steps.write_plain)
    workers.run_all(steps.close_plain)
    bench.screen.end_progress()
    return clock.seconds


def measure_aggregation_and_lists(bench: Bench, settings: steps.Settings) -> None:
    """Part 3: all touched hours in one go, popular items, and every list."""
    expected = bench.source.summary.expected
    with closing(bootstrap.open_warehouse(settings)) as warehouse:
        clock = Clock()
        with clock.measure():
            result = aggregate_touched(warehouse.engagement)
        print(f"aggregate: {result['hours']:,} hours in one go, {result['rows']:,} rows")
        print_rate("aggregate", expected.unique_valid, clock.seconds, "events")
        clock = Clock()
        with clock.measure():
            newest = warehouse.activity.find_newest_event_ms() or 0
            warehouse.engagement.rank_popular(newest, ranking.POPULAR_HALF_LIFE_DAYS, precompute.POPULAR_ITEMS)
        print(f"popular: {clock.seconds:.2f} s")
        bench.results.expect_equal("wrong rows of engagement", warehouse.stats.count_aggregate_differences(), 0)
        totals = warehouse.stats.read_totals(settings.kafka.topic)
        bench.results.expect_equal("delivered", totals.delivered, expected.delivered)
        bench.results.expect_equal(
            "dead letters", sum(totals.dead_letters.values()), sum(expected.dead_letters.values())
        )
    with bootstrap.open_precompute_ports(settings) as ports:
        bench.results.expect_equal("lists", _build_lists(bench, settings, ports), expected.lists)


def _build_lists(bench: Bench, settings: steps.Settings, ports: precompute.PrecomputePorts) -> int:
    selecting, profiling, recommending, publishing = Clock(), Clock(), Clock(), Clock()
    ports.profiles.get(["-"])  # creates the collection
    with selecting.measure():
        ref = precompute.select_users("bench", settings.pipeline, ports)
    profiles = users = 0
    for chunk in range(ref.chunks):
        bench.screen.progress(f"profiles: chunk {chunk + 1} of {ref.chunks}")
        with profiling.measure():
            profiles += precompute.build_profiles(ref, chunk, ports)
    for chunk in range(ref.chunks):
        bench.screen.progress(f"lists: chunk {chunk + 1} of {ref.chunks}")
        with recommending.measure():
            users += precompute.recommend(ref, chunk, ports)
    with publishing.measure():
        written = precompute.publish(ref, settings.pipeline, ports)
    bench.screen.end_progress()
    for name, count, clock in (
        ("select_users", users, selecting),
        ("build_profiles", profiles, profiling),
        ("recommend", users, recommending),
        ("publish to Redis", written, publishing),
    ):
        print_rate(name, count, clock.seconds, "users")
    return written


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=60_000, help="lines of input (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=10_000, help="maximum lines per batch (default: %(default)s)")
    return parser.parse_args()


def main() -> int:
    """Run the benchmark. Returns 1 if the stores do not contain what the input implies."""
    options = parse_arguments()
    screen, results = Screen(), Results()
    with temporary_stack(screen, *_SERVERS) as stack:
        settings = steps.build_settings(stack, _TOPIC, options.batch)
        source = read_input(options.events, stack.config.home, settings.pipeline.shards)
        print(f"{options.events:,} lines of {rows.label()} in batches of up to {options.batch:,}; {describe_machine()}")
        bench = Bench(stack, settings, source, warm_up_validator(source), screen, results)
        publish_all(bench)
        warm_up(bench)
        timings = measure_separately(bench)
        delete_graph(settings.neo4j)
        slowest = max(NAMES, key=lambda name: timings[name].plain_s)
        stored = measure_in_parallel(bench, (slowest, timings[slowest].plain_s))
        measure_aggregation_and_lists(bench, stored)
    return results.exit_code()


if __name__ == "__main__":
    run_main(main)
