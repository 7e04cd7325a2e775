"""The demo from its input to its report, step by step. Any may be cut short: the next run goes on or begins anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
from rich.console import Console

from demo import manifest as manifests
from demo.airflow import Airflow
from demo.checks import found_counts
from demo.manifest import Manifest, State
from demo.publish import publish
from demo.reader import chosen
from demo.reconcile import Counts, differences
from demo.recount import Recount, Survey
from demo.report import Report, make_report, show_counts, show_seconds, show_users, write_report
from demo.routing import Router
from demo.screen import Screen
from demo.shop import Shop
from demo.source import FileLines, Lines, ShopLines
from demo.wait import Collector, Progress, wait_for_lists
from include import bootstrap
from include.errors import ConfigurationError, MillraceError, PermanentError, TransientError
from include.ports import Source
from include.settings import Settings
from stack.checks import DISK_NEEDED, disk_problems
from stack.config import PROJECT, LocalConfig
from stack.jars import ROOTS, fetch, locked
from stack.stack import Stack

REPORT = PROJECT / ".local" / "reports" / "demo.json"
_SHOWN_USERS = 3
_CANDIDATES = 24
_HISTORY = 4
_SETTLE_S = 1.0
_LEADERS_S = 30.0
_COUNT_S = 120.0

#: The events may be of any age: recency counts from the newest of them, and every user's list is kept alive.
_VARIABLES = {"AIRFLOW_VAR_MILLRACE_AS_OF": "newest_event", "AIRFLOW_VAR_MILLRACE_ACTIVE_DAYS": "all"}


class DifferenceError(PermanentError):
    """What was found is not what the input says. The message lists every difference."""


@dataclass(frozen=True)
class Options:
    """``file`` None means the shop. ``began`` is when the command was given, in seconds since 1970; ``installed``
    how many seconds before it went into an installation made for it."""

    config: LocalConfig
    began: float
    installed: float = 0.0
    file: Path | None = None
    shop: Shop = field(default_factory=Shop)
    report: Path = REPORT
    fresh: bool = False
    stop_after: bool = False


class Demo:
    """One run of the demo. ``run`` raises an error of ours with what to do about it."""

    def __init__(self, options: Options, screen: Screen, console: Console, recount: Recount) -> None:
        self._options = options
        self._home = options.config.home
        self._config = replace(options.config, extra_environment={**_VARIABLES, **options.config.extra_environment})
        self._stack = Stack(self._config, screen.said)
        self._screen = screen
        self._console = console
        self._recount = recount

    def run(self) -> Report:
        """Everything, from reading the input to the tables on the screen."""
        known = manifests.load(self._home)
        manifest, source, survey = self._begin(known)
        self._get_downloads()
        manifest = self._start(manifest)
        settings = Settings.from_environment(self._stack.environment())
        manifest = self._publish(manifest, source, survey, settings)
        manifest = self._wait(manifest, survey, settings)
        return self._finish(manifest, survey, settings)

    # --- the input

    def _begin(self, known: Manifest | None) -> tuple[Manifest, Lines, Survey]:
        """The manifest of the unfinished run of the same input, or a new one with everything of the old one gone."""
        now = round(self._options.began * 1000)
        if known is not None and known.unfinished and not self._options.fresh:
            source, survey = self._survey(known.published_at)
            if (known.fingerprint, known.shards) == (survey.fingerprint, self._config.shards):
                self._screen.say(f"going on with the unfinished run of {source.label}")
                return known, source, survey
        source, survey = self._survey(now)
        started_at = self._options.began - self._options.installed
        fresh = Manifest(source.label, self._config.shards, survey.fingerprint, now, started_at)
        manifests.save(self._home, fresh)
        self._check_disk()
        if known is not None:
            self._screen.say("emptying the stores of the last run")
        self._stack.reset()
        return fresh, source, survey

    def _survey(self, published_at: int) -> tuple[Lines, Survey]:
        file = self._options.file
        source = FileLines(file) if file is not None else ShopLines(self._options.shop, published_at)
        self._recount.clear()
        note = lambda lines: self._screen.progress(f"reading {source.label}: {lines:,} lines")  # noqa: E731
        survey = self._recount.survey(source, self._config.shards, published_at, note)
        counts = survey.counts
        self._screen.say(
            f"{source.label}: {counts.delivered:,} lines, {counts.unique_valid:,} events of {counts.lists:,} users, "
            f"{counts.duplicates:,} repeats, {sum(counts.dead_letters.values()):,} that are no events"
        )
        return source, survey

    def _check_disk(self) -> None:
        problems = disk_problems(self._home, DISK_NEEDED)
        if problems:
            raise ConfigurationError("the demo cannot run here:\n" + "\n".join(f"  - {one}" for one in problems))

    # --- the servers

    def _get_downloads(self) -> None:
        fetch([jar for server in ROOTS for jar in locked(server)], self._config.jar_cache, self._screen.progress)

    def _start(self, manifest: Manifest) -> Manifest:
        started = time.time()
        self._screen.say("starting the servers; the first time takes a minute or two")
        self._stack.up()
        setup = started - self._options.began + self._options.installed
        return self._saved(replace(manifest, setup_seconds=setup, start_seconds=time.time() - started))

    # --- the events

    def _publish(self, manifest: Manifest, source: Lines, survey: Survey, settings: Settings) -> Manifest:
        if manifest.state is State.WAITING:
            return manifest
        from include.sources.kafka_producer import Publisher
        from include.sources.kafka_topics import ensure_topics

        shards = range(self._config.shards)
        ensure_topics(settings.kafka, len(shards))
        with bootstrap.opened(bootstrap.source(settings.kafka), Publisher(settings.kafka)) as (topic, publisher):
            there = _settled_ends(topic, shards)
            manifest = self._saved(replace(manifest, state=State.PUBLISHING).marked(first_publish=time.time()))
            total = sum(survey.per_shard)
            note = lambda done: self._screen.progress(f"published {done:,} of {total:,}")  # noqa: E731
            try:
                publish(source.lines(), Router(len(shards)), publisher, there, manifest.published_at, note)
            except MillraceError:
                # Something may be missing in between: what is there is then no beginning to go on from.
                self._saved(replace(manifest, state=State.STARTING))
                raise
            held = _ends(topic, shards)
        if held != list(survey.per_shard):
            raise PermanentError(f"the topic holds {held} messages by shard and should hold {list(survey.per_shard)}")
        self._screen.done()
        return self._saved(replace(manifest, state=State.WAITING).marked(published=time.time()))

    def _wait(self, manifest: Manifest, survey: Survey, settings: Settings) -> Manifest:
        ends = dict(enumerate(survey.per_shard))
        airflow = Airflow.of(self._stack.environment())
        with bootstrap.opened(airflow, bootstrap.warehouse(settings.warehouse)) as (_, house):
            collector = Collector(airflow, house.database, settings.kafka.topic, settings.embed.generation, ends)
            stages = _Stages(self._home, manifest)
            last_list = wait_for_lists(collector, airflow, self._config, self._screen, stages.note)
        return self._saved(stages.manifest.marked(last_list=last_list))

    # --- the end

    def _finish(self, manifest: Manifest, survey: Survey, settings: Settings) -> Report:
        self._screen.say("counting what is in the stores")
        found, wrong = self._found(settings)
        report = make_report(found, manifest, time.time())
        write_report(self._options.report, report)
        self._saved(replace(manifest, state=State.OVER))
        show_counts(self._console, found, survey.counts, wrong)
        show_seconds(self._console, report)
        wrongs = differences(found, survey.counts, wrong)
        if wrongs:
            raise DifferenceError("the figures are not right:\n" + "\n".join(f"  - {one}" for one in wrongs))
        self._show_users()
        return report

    def _found(self, settings: Settings) -> tuple[Counts, int]:
        """A server that was just started again may not answer at once: that is no difference."""
        note = lambda error: self._screen.progress(f"counting again: {error}")  # noqa: E731
        return _patiently(lambda: found_counts(settings, self._recount.users()), _COUNT_S, note)

    def _show_users(self) -> None:
        url = self._stack.environment()["MILLRACE_READER_URL"]
        with httpx.Client(base_url=url, timeout=10, trust_env=False) as client:
            history = lambda user: self._recount.history(user, _HISTORY)  # noqa: E731
            show_users(self._console, chosen(client, self._recount.examples(_CANDIDATES), history, _SHOWN_USERS))

    def _saved(self, manifest: Manifest) -> Manifest:
        manifests.save(self._home, manifest)
        return manifest


def _settled_ends(topic: Source, shards: Sequence[int]) -> list[int]:
    """How many messages each shard holds, once what a killed publisher had sent has arrived."""
    ends = _ends(topic, shards)
    while any(ends):
        time.sleep(_SETTLE_S)
        before, ends = ends, _ends(topic, shards)
        if ends == before:
            break
    return ends


def _ends(topic: Source, shards: Sequence[int]) -> list[int]:
    """Partitions that have just been made have no leader for a moment."""
    return _patiently(lambda: [topic.offsets(shard).high for shard in shards], _LEADERS_S)


def _patiently[T](ask: Callable[[], T], patience: float, note: Callable[[TransientError], None] = lambda _: None) -> T:
    """The answer, asked for again for ``patience`` seconds while there is none for now."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return ask()
        except TransientError as error:
            if time.monotonic() > deadline:
                raise
            note(error)
            time.sleep(_SETTLE_S)


class _Stages:
    """Writes down when ingest and aggregation were first seen to be done, also for a run that goes on after a kill."""

    def __init__(self, home: Path, manifest: Manifest) -> None:
        self._home = home
        self.manifest = manifest

    def note(self, progress: Progress) -> None:
        snapshot, at = progress.snapshot, progress.at
        marks: Mapping[str, float] = {
            **({"ingested": at} if snapshot.ingested else {}),
            **({"aggregated": at} if snapshot.aggregated else {}),
        }
        marked = self.manifest.marked(**marks)
        if marked != self.manifest:
            self.manifest = marked
            manifests.save(self._home, marked)
