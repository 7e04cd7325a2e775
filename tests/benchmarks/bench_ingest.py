"""Ingest, aggregation and precompute, step by step, against each server's own bulk writer in the same run.

1. Each step by itself: what is staged goes through each sink and through the server's own writer, batch by batch,
   taking turns, into empty stores of each.
2. Ingest without embedding (every text has a random vector already): stage, four stores side by side, commit, batch
   after batch, into empty stores; and the four plain writers side by side, for what the machine can do.
3. The aggregation of every touched hour, popular items, and the steps of the precompute.

What Airflow itself takes is not in it: no task is started.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from demo.publish import publish
from demo.recount import Survey, recount
from demo.routing import Router
from demo.screen import Screen
from include import bootstrap
from include.domain import ranking
from include.domain.batch import BatchRef, Record, events_table
from include.pipeline import precompute
from include.pipeline.aggregate import aggregate_touched
from include.pipeline.commit import commit
from include.pipeline.embed import embed
from include.pipeline.stage import claim, stage
from include.ports import Sink, Validator
from include.settings import Settings
from include.sources.kafka_producer import Publisher
from include.sources.kafka_topics import ensure_topics
from stack.stack import Stack
from tests.benchmarks import rows, steps
from tests.benchmarks.machine import Clock, Results, conditions, ended_by_signals, own_stack, show_rate, verdict
from tests.benchmarks.plain import NAMES, Plain, empty_graph, needed, plain_writer

TARGET = 0.8
_SERVERS = ("kafka", "postgres", "mongo", "milvus", "neo4j", "redis")
_TOPIC = "bench"


@dataclass(frozen=True)
class Held:
    """Lines in memory."""

    held: Sequence[bytes]
    label: str

    def lines(self) -> Iterator[bytes]:
        """Each line, from the first on."""
        return iter(self.held)


@dataclass(frozen=True)
class Input(Held):
    """The lines with the time of their publishing (ms since 1970), and what must come of them."""

    published_at: int
    survey: Survey

    def texts(self) -> list[str]:
        """The distinct texts."""
        return list(dict.fromkeys(event.text for event in rows.events(self.held) if event.text is not None))


def read_input(count: int, folder: Path, shards: int) -> Input:
    """The first ``count`` lines, and their survey: counted from the lines alone."""
    held, published_at = Held(rows.lines(count), rows.label()), time.time_ns() // 1_000_000
    with recount(folder / "recount.sqlite") as counted:
        survey = counted.survey(held, shards, published_at, lambda _: None)
    return Input(held.held, held.label, published_at, survey)


def warm_validator(source: Held) -> Validator:
    """The validator after a first batch: in Airflow its library is loaded before a task begins."""
    made = bootstrap.validator()
    events = islice(rows.events(source.lines()), 100)
    made.validate(
        events_table((Record(0, offset, event.occurred_at, None, None), event) for offset, event in enumerate(events))
    )
    return made


@dataclass
class Staging:
    """Seconds and rows of what comes before the stores."""

    clock: Clock = field(default_factory=Clock)
    embedding: Clock = field(default_factory=Clock)
    delivered: int = 0
    events: int = 0


@dataclass(frozen=True)
class Bench:
    """What every part needs."""

    stack: Stack
    settings: Settings
    source: Input
    validator: Validator
    screen: Screen
    results: Results

    def place(self, name: str) -> Settings:
        """Empty stores, and a vector for every text."""
        made = steps.place(self.stack, self.settings, name)
        steps.give_vectors(made, self.source.texts())
        return made

    def batches(self, settings: Settings, staging: Staging) -> Iterator[BatchRef]:
        """Stage batch after batch until the topic is drained; each must be committed before the next."""
        kafka, files = settings.kafka, bootstrap.files(settings.pipeline)
        known = steps.KnownVectors(settings.embed.generation)
        for shard in range(settings.pipeline.shards):
            while True:
                with bootstrap.opened(
                    bootstrap.source(kafka), bootstrap.dead_letters(kafka), bootstrap.warehouse(settings.warehouse)
                ) as (source, letters, house):
                    with staging.clock.running():
                        ref = claim(source, house.ledger, kafka.topic, shard, settings.pipeline.batch_size)
                        if ref is None:
                            break
                        counts = stage(ref, source, letters, self.validator, house.standing, house.ledger, files)
                    with staging.embedding.running():
                        embed(ref, files, known, house.text_vectors)
                staging.delivered += counts.delivered
                staging.events += counts.valid - counts.dropped
                self.screen.progress(f"{staging.delivered:,} of {len(self.source.held):,} lines staged")
                yield ref


def publish_all(bench: Bench) -> None:
    """The whole input into the topic, each user's lines into the shard of the user."""
    kafka, shards = bench.settings.kafka, bench.settings.pipeline.shards
    ensure_topics(kafka, shards)
    publisher = Publisher(kafka)
    began = time.perf_counter()
    publish(bench.source.lines(), Router(shards), publisher, [0] * shards, bench.source.published_at)
    show_rate("publish", len(bench.source.held), time.perf_counter() - began)
    publisher.close()


def warm_up(bench: Bench) -> None:
    """The first batch each way into stores that nobody looks at: a cold JVM would weigh on whoever comes first."""
    settings = bench.place("warm")
    plain = steps.plain_place(settings)
    ref = next(bench.batches(settings, Staging()))
    for name in NAMES:
        bench.screen.progress(f"warming {name}")
        writer = plain_writer(name, plain)
        with bootstrap.opened(steps.open_sink(name, settings)) as (sink,):
            steps.Pair().compare(steps.sink_step(settings, sink, ref), writer, steps.staged(settings, ref))
        writer.close()
    empty_graph(settings.neo4j)


def each_alone(bench: Bench) -> dict[str, steps.Pair]:
    """Part 1: the steps one at a time, each sink beside the server's own writer."""
    settings = bench.place("alone")
    plain, staging = steps.plain_place(settings), Staging()
    pairs, refs = {"warehouse": steps.Pair()}, []
    writer = plain_writer("warehouse", plain)
    with bootstrap.opened(steps.open_sink("warehouse", settings), bootstrap.warehouse(settings.warehouse)) as opened:
        sink, house = opened
        for ref in bench.batches(settings, staging):
            # The warehouse goes along: staging asks it what stands already. The files stay for the others.
            _compare(bench, "warehouse", pairs["warehouse"], settings, sink, writer, ref)
            house.ledger.commit(ref)
            refs.append(ref)
    held = {"warehouse": _close(writer)}
    for name in ("mongo", "neo4j", "milvus"):  # what Milvus does in the background comes last
        pairs[name] = steps.Pair()
        writer = plain_writer(name, plain)
        with bootstrap.opened(steps.open_sink(name, settings)) as (sink,):
            sink.count()  # connects
            for number, ref in enumerate(refs, start=1):
                bench.screen.progress(f"{name}: batch {number} of {len(refs)}")
                _compare(bench, name, pairs[name], settings, sink, writer, ref)
        held[name] = _close(writer)
    bench.screen.done()
    show_rate("stage: decode, validate, settle", staging.delivered, staging.clock.seconds)
    show_rate("embed, texts seen before", staging.events, staging.embedding.seconds)
    for name in NAMES:
        _show_pair(name, pairs[name])
    _check_counts(bench, "alone", settings)
    for name in NAMES:
        ids = set().union(*(needed(name, steps.staged(settings, ref).events) for ref in refs))
        bench.results.equal(f"rows of the plain writer of {name}", held[name], len(ids))
    return pairs


def _compare(
    bench: Bench, name: str, pair: steps.Pair, settings: Settings, sink: Sink, writer: Plain, ref: BatchRef
) -> None:
    if not pair.compare(steps.sink_step(settings, sink, ref), writer, steps.staged(settings, ref)):
        bench.results.fail(f"{name} took another number of rows of {ref.batch_id} than the plain writer")


def _close(writer: Plain) -> int:
    found = writer.count()
    writer.close()
    return found


def _show_pair(name: str, pair: steps.Pair) -> None:
    own, plain = pair.rows / pair.own, pair.rows / pair.plain
    print(f"upsert_{name:27} {own:11,.0f} rows/s  its own writer {plain:9,.0f} rows/s  ratio {pair.ratio:.2f}")


def _check_counts(bench: Bench, what: str, settings: Settings) -> None:
    for name, expected in bench.source.survey.counts.stores.items():
        bench.results.equal(f"events in {name} ({what})", steps.count_of(name, settings), expected)


def together(bench: Bench, slowest: tuple[str, float]) -> Settings:
    """Part 2: the whole way of every batch, and the four plain writers side by side on the same rows."""
    settings, staging, clock = bench.place("together"), Staging(), Clock()
    plain = steps.plain_place(settings)
    refs, spent = [], dict.fromkeys(NAMES, 0.0)
    with steps.workers() as workers:
        workers.each(steps.make_ready, settings)
        for ref in bench.batches(settings, staging):
            refs.append(ref)
            steps.copy_batch(settings, plain, ref)
            with clock.running():
                seconds = workers.each(steps.upsert_batch, settings, ref)
                _commit(settings, ref)
            spent = {name: spent[name] + seconds[name] for name in NAMES}
        bench.screen.done()
        side_by_side = _plain_together(bench, plain, refs, workers)
    whole = staging.clock.seconds + clock.seconds
    show_rate("ingest without embedding", staging.events, whole)
    show_rate("  of it staging", staging.events, staging.clock.seconds)
    show_rate("  of it stores and commit", staging.events, clock.seconds)
    print("  seconds of the tasks: " + ", ".join(f"{name} {spent[name]:.2f}" for name in NAMES))
    show_rate("four plain writers side by side", staging.events, side_by_side)
    _check_counts(bench, "together", settings)
    name, alone = slowest
    verdict(f"ingest without embedding / the slowest plain writer alone ({name})", alone / whole, TARGET)
    print(f"ingest without embedding / the four plain writers side by side: {side_by_side / whole:.2f}")
    return settings


def _commit(settings: Settings, ref: BatchRef) -> None:
    with bootstrap.opened(bootstrap.source(settings.kafka), bootstrap.warehouse(settings.warehouse)) as opened:
        source, house = opened
        commit(ref, house.ledger, source, bootstrap.files(settings.pipeline))


def _plain_together(bench: Bench, settings: Settings, refs: Sequence[BatchRef], workers: steps.Workers) -> float:
    clock = Clock()
    for number, ref in enumerate(refs, start=1):
        bench.screen.progress(f"plain writers side by side: batch {number} of {len(refs)}")
        workers.each(steps.prepare_plain, settings, ref)
        with clock.running():
            workers.each(steps.write_plain)
    workers.each(steps.close_plain)
    bench.screen.done()
    return clock.seconds


def afterwards(bench: Bench, settings: Settings) -> None:
    """Part 3: the hours as one set, popular items, and every list."""
    counts = bench.source.survey.counts
    with bootstrap.opened(bootstrap.warehouse(settings.warehouse)) as (house,):
        clock = Clock()
        with clock.running():
            found = aggregate_touched(house.engagement)
        print(f"aggregate: {found['hours']:,} hours as one set, {found['rows']:,} rows")
        show_rate("aggregate", counts.unique_valid, clock.seconds, "events")
        clock = Clock()
        with clock.running():
            newest = house.audience.newest_event() or 0
            house.engagement.popular(newest, ranking.POPULAR_HALF_LIFE_DAYS, precompute.POPULAR_ITEMS)
        print(f"popular: {clock.seconds:.2f} s")
        bench.results.equal("wrong rows of engagement", house.inventory.aggregate_difference(), 0)
        totals = house.inventory.totals(settings.kafka.topic)
        bench.results.equal("delivered", totals.delivered, counts.delivered)
        bench.results.equal("dead letters", sum(totals.dead_letters.values()), sum(counts.dead_letters.values()))
    with bootstrap.precompute_stores(
        warehouse=settings.warehouse,
        milvus=settings.milvus,
        neo4j=settings.neo4j,
        redis=settings.redis,
        generation=settings.embed.generation,
        pipeline=settings.pipeline,
    ) as stores:
        bench.results.equal("lists", _make_lists(bench, settings, stores), counts.lists)


def _make_lists(bench: Bench, settings: Settings, stores: precompute.Stores) -> int:
    selecting, profiling, recommending, publishing = Clock(), Clock(), Clock(), Clock()
    stores.profiles.get(["-"])  # makes the collection
    with selecting.running():
        ref = precompute.select("bench", time.time_ns() // 1_000_000, settings.pipeline, stores)
    profiles = users = 0
    for chunk in range(ref.chunks):
        bench.screen.progress(f"profiles: chunk {chunk + 1} of {ref.chunks}")
        with profiling.running():
            profiles += precompute.build_profiles(ref, chunk, stores)
    for chunk in range(ref.chunks):
        bench.screen.progress(f"lists: chunk {chunk + 1} of {ref.chunks}")
        with recommending.running():
            users += precompute.recommend(ref, chunk, settings.pipeline, stores)
    with publishing.running():
        written = precompute.publish(ref, settings.pipeline, stores)
    bench.screen.done()
    for name, count, clock in (
        ("select_users", users, selecting),
        ("build_profiles", profiles, profiling),
        ("recommend", users, recommending),
        ("publish to Redis", written, publishing),
    ):
        show_rate(name, count, clock.seconds, "users")
    return written


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=60_000, help="lines of input (default 60000)")
    parser.add_argument("--batch", type=int, default=10_000, help="most lines of one batch (default 10000)")
    return parser.parse_args()


def main() -> int:
    """Measure and print; 1 if anything that was stored is not what the input says."""
    asked = arguments()
    screen, results = Screen(), Results()
    with own_stack(screen, *_SERVERS) as stack:
        settings = steps.settings_of(stack, _TOPIC, asked.batch)
        source = read_input(asked.events, stack.config.home, settings.pipeline.shards)
        print(f"{asked.events:,} lines of {rows.label()} in batches of up to {asked.batch:,}; {conditions()}")
        bench = Bench(stack, settings, source, warm_validator(source), screen, results)
        publish_all(bench)
        warm_up(bench)
        pairs = each_alone(bench)
        empty_graph(settings.neo4j)
        slowest = max(NAMES, key=lambda name: pairs[name].plain)
        stored = together(bench, (slowest, pairs[slowest].plain))
        afterwards(bench, stored)
    return results.exit_code()


if __name__ == "__main__":
    ended_by_signals(main)
