"""Behaviour specific to Milvus: the adapter waits for a collection that does not respond yet."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from include.settings import MilvusSettings
from include.stores.milvus import MilvusProfiles
from stack import records
from tests.contract.batches import GENERATION, vector_of
from tests.contract.conftest import Servers

pytestmark = pytest.mark.servers("milvus")

#: Longer than the timeout of one readiness check.
_PAUSE_S = 7.0


@contextmanager
def _paused_for_a_while(servers: Servers) -> Iterator[None]:
    record = records.read(servers.stack.config.run, "milvus")
    assert record is not None
    members = record.members()
    resume = threading.Timer(_PAUSE_S, _signal, (members, signal.SIGCONT))
    _signal(members, signal.SIGSTOP)
    resume.start()
    try:
        yield
    finally:
        resume.join()


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def test_the_adapter_waits_for_a_collection_that_does_not_respond(
    servers: Servers, milvus_settings: MilvusSettings
) -> None:
    """After a restart Milvus may answer everything but queries for a while; that is not a failure."""
    with closing(MilvusProfiles(milvus_settings, GENERATION)) as profiles:
        profiles.put(["a"], vector_of("a")[None])
        with _paused_for_a_while(servers):
            profiles._vectors._wait_until_ready(profiles._client)
        assert profiles.get(["a"]).keys() == {"a"}
