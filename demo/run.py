"""One run of the demo, step by step, from its input to its report. A run that was killed can be resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
from rich.console import Console

from demo import manifest as manifests
from demo.airflow import AirflowClient
from demo.checks import count_stored
from demo.manifest import Manifest, State
from demo.publishing import publish_lines
from demo.reader import choose_users
from demo.reconcile import Counts, describe_mismatches
from demo.recount import InputEvents, InputSummary
from demo.report import Report, build_report, print_counts, print_seconds, print_users, write_report
from demo.routing import Router
from demo.screen import Screen
from demo.shop import Shop
from demo.source import FileLines, Lines, ShopLines
from demo.wait import Collector, Progress, wait_for_lists
from include import bootstrap
from include.errors import ConfigurationError, MillraceError, PermanentError, TransientError
from include.ports import Source
from include.settings import EnvironmentSettings, Settings
from stack.checks import DISK_NEEDED, check_disk, format_list
from stack.config import PROJECT, LocalConfig
from stack.interrupts import defer_interrupts
from stack.jars import fetch, read_lock
from stack.stack import Stack

REPORT = PROJECT / ".local" / "reports" / "demo.json"
_EXAMPLE_USERS = 3
_EXAMPLE_CANDIDATES = 24
_HISTORY_LENGTH = 4
_RETRY_INTERVAL_S = 1.0
_LEADER_TIMEOUT_S = 30.0
_COUNT_TIMEOUT_S = 120.0

#: The events may be old: measure recency from the newest event, and refresh the list of every user.
_VARIABLES = {
    "AIRFLOW_VAR_MILLRACE_AS_OF": "newest_event",
    "AIRFLOW_VAR_MILLRACE_ACTIVE_DAYS": "all",
    # The demo's data has malformed messages on purpose, and real files may have many next to each other.
    "AIRFLOW_VAR_MILLRACE_MAX_REJECT_PERCENT": "100",
}


class MismatchError(PermanentError):
    """The stores do not contain what the input implies. The message lists every mismatch."""


@dataclass(frozen=True)
class Options:
    """``file`` is None for the simulated shop. ``started_at`` is when the command was run, in seconds since 1970;
    ``installation_s`` is the duration of the installation just before it."""

    config: LocalConfig
    started_at: float
    installation_s: float = 0.0
    file: Path | None = None
    shop: Shop = field(default_factory=Shop)
    report: Path = REPORT
    fresh: bool = False
    stop_after: bool = False


class Demo:
    """One run of the demo. ``run`` raises a ``MillraceError`` that says what to do."""

    def __init__(self, options: Options, screen: Screen, console: Console, input_events: InputEvents) -> None:
        self._options = options
        self._home = options.config.home
        self._config = replace(options.config, extra_environment={**_VARIABLES, **options.config.extra_environment})
        self._stack = Stack(self._config, screen.print_stack_message)
        self._screen = screen
        self._console = console
        self._input_events = input_events

    def run(self) -> Report:
        """Run every step, from reading the input to printing the results."""
        manifest, source, summary = self._resume_or_start_over(manifests.load(self._home))
        self._download_jars()
        manifest = self._start_servers(manifest)
        settings = EnvironmentSettings(self._stack.environment())
        manifest = self._publish(manifest, source, summary, settings)
        manifest = self._wait_for_lists(manifest, summary, settings)
        return self._report(manifest, summary, settings)

    # --- the input

    def _resume_or_start_over(self, previous: Manifest | None) -> tuple[Manifest, Lines, InputSummary]:
        """Resume the previous run if it is unfinished and has the same input; otherwise empty the stores."""
        now_ms = round(self._options.started_at * 1000)
        if previous is not None and previous.unfinished and not self._options.fresh:
            source, summary = self._read_input(previous.published_at)
            if (previous.fingerprint, previous.shards) == (summary.fingerprint, self._config.shards):
                self._screen.print(f"resuming the unfinished run of {source.label}")
                return previous, source, summary
        source, summary = self._read_input(now_ms)
        started_at = self._options.started_at - self._options.installation_s
        manifest = Manifest(source.label, self._config.shards, summary.fingerprint, now_ms, started_at)
        self._save(manifest)
        self._check_disk()
        if previous is not None:
            self._screen.print("deleting the data of the previous run")
        self._stack.reset()
        return manifest, source, summary

    def _read_input(self, published_at: int) -> tuple[Lines, InputSummary]:
        file = self._options.file
        source = FileLines(file) if file is not None else ShopLines(self._options.shop, published_at)
        self._input_events.clear()
        summary = self._input_events.load(
            source,
            self._config.shards,
            published_at,
            on_progress=lambda lines: self._screen.progress(f"reading {source.label}: {lines:,} lines"),
        )
        counts = summary.expected
        self._screen.print(
            f"{source.label}: {counts.delivered:,} lines, {counts.unique_valid:,} events of {counts.lists:,} users, "
            f"{counts.duplicates:,} duplicates, {sum(counts.dead_letters.values()):,} invalid lines"
        )
        return source, summary

    def _check_disk(self) -> None:
        problems = check_disk(self._home, DISK_NEEDED)
        if problems:
            raise ConfigurationError(f"the demo cannot run here:\n{format_list(problems)}")

    # --- the servers

    def _download_jars(self) -> None:
        fetch(read_lock(), self._config.jar_cache, self._screen.progress)

    def _start_servers(self, manifest: Manifest) -> Manifest:
        started_at = time.time()
        self._screen.print("starting the servers; the first start takes a minute or two")
        # Interrupted at a point of its own choice, it stops whatever it has started.
        with defer_interrupts(self._stack.interrupted):
            self._stack.up()
        setup = started_at - self._options.started_at + self._options.installation_s
        return self._save(manifest.update(setup_seconds=setup, start_seconds=time.time() - started_at))

    # --- the events

    def _publish(self, manifest: Manifest, source: Lines, summary: InputSummary, settings: Settings) -> Manifest:
        if manifest.state is State.WAITING:
            return manifest
        from include.sources.kafka_producer import Publisher
        from include.sources.kafka_topics import ensure_topics

        shards = range(self._config.shards)
        ensure_topics(settings.kafka, len(shards))
        with closing(bootstrap.open_source(settings)) as topic, closing(Publisher(settings.kafka)) as publisher:
            existing = _wait_for_stable_ends(topic, shards)
            manifest = self._save(manifest.update(state=State.PUBLISHING).record_times(first_publish=time.time()))
            total = sum(summary.lines_per_shard)
            on_progress = lambda done: self._screen.progress(f"published {done:,} of {total:,} lines")  # noqa: E731
            try:
                publish_lines(
                    source.lines(), Router(len(shards)), publisher, existing, manifest.published_at, on_progress
                )
            except MillraceError:
                # Messages may be missing in the middle, so the next run cannot resume from what is there.
                self._save(manifest.update(state=State.STARTING))
                raise
            ends = _read_ends(topic, shards)
        if ends != list(summary.lines_per_shard):
            raise PermanentError(f"the topic has {ends} messages per shard, expected {list(summary.lines_per_shard)}")
        self._screen.end_progress()
        return self._save(manifest.update(state=State.WAITING).record_times(published=time.time()))

    def _wait_for_lists(self, manifest: Manifest, summary: InputSummary, settings: Settings) -> Manifest:
        ends = dict(enumerate(summary.lines_per_shard))
        airflow = AirflowClient.for_stack(self._stack.environment())
        with closing(airflow), closing(bootstrap.open_warehouse(settings)) as warehouse:
            collector = Collector(airflow, warehouse.database, settings.kafka.topic, settings.embed.generation, ends)
            recorder = _StageRecorder(self._home, manifest)
            last_list = wait_for_lists(collector, airflow, self._config, self._screen, recorder.record)
        return self._save(recorder.manifest.record_times(last_list=last_list))

    # --- the results

    def _report(self, manifest: Manifest, summary: InputSummary, settings: Settings) -> Report:
        self._screen.print("counting the rows in the stores")
        actual, wrong_aggregates = self._count_stored(settings)
        report = build_report(actual, manifest, time.time())
        write_report(self._options.report, report)
        self._save(manifest.update(state=State.FINISHED))
        print_counts(self._console, actual, summary.expected, wrong_aggregates)
        print_seconds(self._console, report)
        mismatches = describe_mismatches(actual, summary.expected, wrong_aggregates)
        if mismatches:
            raise MismatchError(f"the counts do not match:\n{format_list(mismatches)}")
        self._print_example_users()
        return report

    def _count_stored(self, settings: Settings) -> tuple[Counts, int]:
        """A server that has just been restarted may not answer at first; that is not a mismatch."""
        return retry_until(
            lambda: count_stored(settings, self._input_events.read_users()),
            _COUNT_TIMEOUT_S,
            on_error=lambda error: self._screen.progress(f"counting again: {error}"),
        )

    def _print_example_users(self) -> None:
        url = self._stack.environment()["MILLRACE_READER_URL"]
        with httpx.Client(base_url=url, timeout=10, trust_env=False) as client:
            users = choose_users(
                client,
                self._input_events.choose_example_users(_EXAMPLE_CANDIDATES),
                lambda user: self._input_events.read_history(user, _HISTORY_LENGTH),
                _EXAMPLE_USERS,
            )
        print_users(self._console, users)

    def _save(self, manifest: Manifest) -> Manifest:
        manifests.save(self._home, manifest)
        return manifest


def _wait_for_stable_ends(topic: Source, shards: Sequence[int]) -> list[int]:
    """Returns the number of messages per shard, once everything sent by a killed publisher has arrived."""
    ends = _read_ends(topic, shards)
    while any(ends):
        time.sleep(_RETRY_INTERVAL_S)
        previous, ends = ends, _read_ends(topic, shards)
        if ends == previous:
            break
    return ends


def _read_ends(topic: Source, shards: Sequence[int]) -> list[int]:
    """Returns the number of messages per shard. New partitions have no leader for a moment, so this retries."""
    return retry_until(lambda: [topic.read_offsets(shard).high for shard in shards], _LEADER_TIMEOUT_S)


def retry_until[T](
    call: Callable[[], T], timeout_s: float, on_error: Callable[[TransientError], None] = lambda _: None
) -> T:
    """Returns the result of ``call``, retrying on ``TransientError`` until the timeout."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return call()
        except TransientError as error:
            if time.monotonic() > deadline:
                raise
            on_error(error)
            time.sleep(_RETRY_INTERVAL_S)


class _StageRecorder:
    """Saves when ingest and aggregation were first seen to be complete, so that a resumed run keeps these times."""

    def __init__(self, home: Path, manifest: Manifest) -> None:
        self._home = home
        self.manifest = manifest

    def record(self, progress: Progress) -> None:
        snapshot, at = progress.snapshot, progress.at
        times: Mapping[str, float] = {
            **({"ingested": at} if snapshot.ingested else {}),
            **({"aggregated": at} if snapshot.aggregated else {}),
        }
        updated = self.manifest.record_times(**times)
        if updated != self.manifest:
            self.manifest = updated
            manifests.save(self._home, updated)
