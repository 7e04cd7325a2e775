"""One live ingest run outside Airflow, beside the one that Airflow may have under way.

It waits until its shard has an open batch, prints whether it has, and then claims that batch too.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from include import bootstrap
from include.bootstrap import SINKS
from include.domain.batch import BatchMode, events_table
from include.errors import RefusedEventsError, StaleClaimError, TransientError
from include.pipeline.commit import commit
from include.pipeline.embed import embed
from include.pipeline.stage import claim_and_stage
from include.pipeline.upsert import upsert
from include.settings import EnvironmentSettings, Settings

_WAIT_S = 20
_RETRY_S = 600
_RETRY_PAUSE_S = 5
#: What the process prints when the shard has an open batch.
HIT = "the shard has an open batch"
#: The exit code if another run claimed the batch meanwhile.
STALE = 3
#: The exit code if a store refused events, which the shard's next run makes dead letters of.
REFUSED = 4


def run(settings: Settings, shard: int) -> None:
    """Ingest one batch. Raises ``StaleClaimError`` if another run claims it meanwhile."""
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


def wait_for_open_batch(settings: Settings, shard: int) -> bool:
    """Whether the shard has an open live batch, after a short wait at most."""
    deadline = time.monotonic() + _WAIT_S
    with bootstrap.open_commit_ports(settings) as ports:
        while time.monotonic() < deadline:
            open_batches = ports.ledger.find_open(settings.kafka.topic)
            if any(ref.shard == shard and ref.mode == BatchMode.LIVE for ref in open_batches):
                return True
            time.sleep(0.05)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shard", type=int, required=True)
    options = parser.parse_args()
    settings = EnvironmentSettings(os.environ)
    bootstrap.build_validator().validate(events_table([]))  # its import takes seconds, and the batch is soon gone
    deadline = time.monotonic() + _RETRY_S
    while True:
        try:
            if wait_for_open_batch(settings, options.shard):
                print(HIT, flush=True)
            run(settings, options.shard)
        except StaleClaimError:
            return STALE
        except RefusedEventsError:
            return REFUSED
        except TransientError:  # another fault fell meanwhile
            if time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_PAUSE_S)
        else:
            return 0


if __name__ == "__main__":
    sys.exit(main())
