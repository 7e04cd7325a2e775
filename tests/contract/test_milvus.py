"""What is special about Milvus: a collection that does not answer yet is waited for."""

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

#: Longer than one of the questions by which readiness is found out.
_SILENT_S = 7.0


@contextmanager
def _silent_for_a_while(servers: Servers) -> Iterator[None]:
    record = records.read(servers.stack.config.run, "milvus")
    assert record is not None
    members = record.members()
    resume = threading.Timer(_SILENT_S, _send, (members, signal.SIGCONT))
    _send(members, signal.SIGSTOP)
    resume.start()
    try:
        yield
    finally:
        resume.join()


def _send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def test_a_collection_that_is_silent_at_first_is_waited_for(servers: Servers, milvus_settings: MilvusSettings) -> None:
    """After a restart Milvus may answer everything but a query for a while: that is no failure."""
    with closing(MilvusProfiles(milvus_settings, GENERATION)) as profiles:
        profiles.put(["a"], vector_of("a")[None])
        with _silent_for_a_while(servers):
            profiles._vectors._wait_until_ready(profiles._client)
        assert profiles.get(["a"]).keys() == {"a"}
