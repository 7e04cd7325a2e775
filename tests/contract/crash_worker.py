"""One ingest run in a process that kills itself at a named point, as a lost worker would be.

``run`` executes the tasks of an ingest run one after the other, with the ports that the DAG opens. Importing this
module loads every driver, so that a fork server that has it preloaded starts a run within milliseconds.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from include import bootstrap
from include.bootstrap import SINKS
from include.domain.batch import BatchRef, events_table
from include.errors import RefusedEventsError
from include.pipeline.commit import commit
from include.pipeline.embed import embed
from include.pipeline.stage import claim_and_stage
from include.pipeline.upsert import upsert
from include.settings import EnvironmentSettings, Settings
from tests.contract.events import event, record

#: The calls that change something outside the process, in the order of a run.
POINTS = ("dead letters", *SINKS, "ledger", "offset")

#: The further calls of a run in which a store refuses an event: recording it, and removing it from the other stores.
REFUSAL_POINTS = ("refusal", "removal")

type Side = Literal["before", "after"]


class CrashPoint(NamedTuple):
    """Where to die: immediately before or after one of POINTS or REFUSAL_POINTS."""

    point: str
    side: Side


class _Dying:
    """A port whose method ``name`` kills the process before or after it runs."""

    def __init__(self, port: Any, name: str, side: Side) -> None:
        self._port = port
        self._name = name
        self._side = side

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._port, name)
        return self._wrap(attribute) if name == self._name else attribute

    def _wrap(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def dying(*arguments: Any) -> Any:
            if self._side == "after":
                method(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        return dying


def run(environment: Mapping[str, str], crash: CrashPoint | None) -> None:
    """Ingest one live batch of shard 0; without a crash point, batches until there is none."""
    settings = EnvironmentSettings(environment)
    while (ref := _stage(settings, crash)) is not None:
        with bootstrap.open_embed_ports(settings) as ports:
            embed(ref, ports)
        stored = [_upsert(settings, ref, sink, crash) for sink in SINKS]
        if all(stored):
            _commit(settings, ref, crash)


def _stage(settings: Settings, crash: CrashPoint | None) -> BatchRef | None:
    with bootstrap.open_stage_ports(settings) as ports:
        dead_letters = _wrap(ports.dead_letters, "put", "dead letters", crash)

        @contextmanager
        def open_sinks() -> Iterator[list[Any]]:
            with ports.open_sinks() as sinks:
                yield [_wrap(sink, "delete", "removal", crash) for sink in sinks]

        wrapped = replace(ports, dead_letters=dead_letters, validator=_VALIDATOR, open_sinks=open_sinks)
        return claim_and_stage(settings.kafka.topic, 0, settings.pipeline, wrapped)


def _upsert(settings: Settings, ref: BatchRef, sink: str, crash: CrashPoint | None) -> bool:
    """Returns False if the store refused an event: then the task fails, and the next run stages the batch again."""
    with bootstrap.open_upsert_ports(sink, settings) as ports:
        ledger = _wrap(ports.ledger, "record_refused", "refusal", crash)
        try:
            upsert(ref, replace(ports, sink=_wrap(ports.sink, "upsert", sink, crash), ledger=ledger))
        except RefusedEventsError:
            return False
    return True


def _commit(settings: Settings, ref: BatchRef, crash: CrashPoint | None) -> None:
    with bootstrap.open_commit_ports(settings) as ports:
        ledger = _wrap(ports.ledger, "commit", "ledger", crash)
        source = _wrap(ports.source, "commit", "offset", crash)
        commit(ref, replace(ports, ledger=ledger, source=source))


def _wrap(port: Any, method: str, point: str, crash: CrashPoint | None) -> Any:
    return _Dying(port, method, crash.side) if crash is not None and crash.point == point else port


def _load() -> Any:
    import neo4j  # noqa: F401
    import pymilvus  # noqa: F401
    import pymongo  # noqa: F401

    import include.stores.warehouse.warehouse  # noqa: F401

    validator = bootstrap.build_validator()
    validator.validate(events_table([(record(0), event())]))  # loads the library and builds the suite
    return validator


_VALIDATOR = _load()
