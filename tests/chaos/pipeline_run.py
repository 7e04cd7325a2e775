"""One ingest run outside Airflow, beside the one that Airflow may have under way.

It waits until its shard has an open batch, prints whether it has, and then claims that batch too, or reads the range.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from include import bootstrap
from include.bootstrap import SINKS
from include.domain.batch import BatchMode, events_table
from include.errors import StaleClaimError, TransientError
from include.pipeline.commit import commit
from include.pipeline.embed import embed
from include.pipeline.replay import Bound, ReplayPosition, plan, replay
from include.pipeline.stage import StageLimits, claim_and_stage
from include.pipeline.upsert import upsert
from include.settings import EnvironmentSettings, Settings

_WAIT_S = 20
_RETRY_S = 600
_RETRY_PAUSE_S = 5
#: What the process prints when the shard has an open batch.
HIT = "the shard has an open batch"
STALE = 3


#: ``[from, to)``: publish times in ms since 1970.
type PublishedRange = tuple[int, int]


def run(settings: Settings, shard: int, published: PublishedRange | None) -> None:
    """Ingest one batch, or replay a range. Raises ``StaleClaimError`` if another run claims it meanwhile."""
    if published is not None:
        _replay(settings, shard, published)
        return
    with bootstrap.open_stage_ports(settings) as stage_ports:
        ref = claim_and_stage(settings.kafka.topic, shard, settings.pipeline, stage_ports)
    if ref is None:
        return
    with bootstrap.open_embed_ports(settings) as embed_ports:
        embed(ref, embed_ports)
    for sink in SINKS:
        with bootstrap.open_upsert_ports(sink, settings) as sink_ports:
            upsert(ref, sink_ports)
    with bootstrap.open_commit_ports(settings) as commit_ports:
        commit(ref, commit_ports)


def _replay(settings: Settings, shard: int, published: PublishedRange) -> None:
    start, end = (Bound(published_at=time) for time in published)
    pipeline = settings.pipeline
    with bootstrap.open_replay_ports(settings) as ports:
        position = ReplayPosition(ports.commit.files, f"{shard} {published}", shard)
        for each in plan(ports.stage.source, [shard], start, end):
            limits = StageLimits(pipeline.batch_bytes)
            replay(settings.kafka.topic, each, pipeline.batch_size, limits, ports, position, lambda *_: None)


def wait_for_open_batch(settings: Settings, shard: int) -> bool:
    """Whether the shard has an open live batch, after a short wait at most."""
    deadline = time.monotonic() + _WAIT_S
    with bootstrap.open_commit_ports(settings) as ports:
        while time.monotonic() < deadline:
            if any(
                ref.shard == shard and ref.mode == BatchMode.LIVE
                for ref in ports.ledger.find_open(settings.kafka.topic)
            ):
                return True
            time.sleep(0.05)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shard", type=int, required=True)
    parser.add_argument("--range", type=int, nargs=2, metavar=("FROM", "TO"), help="publish times, ms since 1970")
    options = parser.parse_args()
    settings = EnvironmentSettings(os.environ)
    bootstrap.build_validator().validate(events_table([]))  # its import takes seconds, and the batch is soon gone
    if wait_for_open_batch(settings, options.shard):
        print(HIT, flush=True)
    return _run_with_retries(settings, options.shard, tuple(options.range) if options.range else None)


def _run_with_retries(settings: Settings, shard: int, published: PublishedRange | None) -> int:
    """As Airflow does: a range run that gave up halfway would leave its users unmarked."""
    deadline = time.monotonic() + _RETRY_S
    while True:
        try:
            run(settings, shard, published)
        except StaleClaimError:
            return STALE
        except TransientError as error:
            if time.monotonic() > deadline:
                raise
            print(f"retrying: {error}", flush=True)
            time.sleep(_RETRY_PAUSE_S)
        else:
            return 0


if __name__ == "__main__":
    sys.exit(main())
