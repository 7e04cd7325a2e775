"""Milvus on the server: the common suite of sinks, and waiting for a collection that does not respond yet."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np
import pytest

from include.bootstrap import SINKS
from include.settings import MilvusSettings
from include.sinks.milvus import MilvusSink
from include.stores.milvus import STRONG, MilvusProfiles
from stack import records
from tests.contract.batches import GENERATION, SHARDS, batch_of, vector_of
from tests.contract.conftest import Servers
from tests.contract.events import event
from tests.contract.probes import MilvusProbe
from tests.contract.sink_suite import ServerSinkSuite, Subject

pytestmark = pytest.mark.servers("milvus")

#: Longer than the timeout of one readiness check.
_PAUSE_S = 7.0


class TestMilvusSink(ServerSinkSuite):
    """The common suite on the server."""

    @pytest.fixture
    def subject(self, shared_milvus_settings: MilvusSettings, unique: str) -> Iterator[Subject]:
        """A sink on the collections of this session; the prefix of users keeps tests apart."""
        with closing(MilvusSink(shared_milvus_settings, GENERATION, SHARDS)) as sink:
            sink.prepare()
            with closing(MilvusProbe(shared_milvus_settings, GENERATION, unique)) as probe:
                yield Subject(sink, probe, unique, SINKS["milvus"], has_items=False)

    def open_unavailable(self) -> MilvusSink:
        return MilvusSink(MilvusSettings("http://127.0.0.1:1"), GENERATION, SHARDS)


def test_an_equal_event_is_not_written_again(shared_milvus_settings: MilvusSettings, unique: str) -> None:
    """A replay leaves the row alone: writing it would cost a delete, an insert and an index build."""
    stored = event(user_id=unique, text="a text")
    batch = batch_of([stored])
    replayed = batch_of([stored], replaces=True)
    with closing(MilvusSink(shared_milvus_settings, GENERATION, SHARDS)) as sink:
        sink.upsert(batch)
        sink.upsert(replace(replayed, vectors=-replayed.vectors))
        (row,) = sink._client.query(
            sink._vectors.name, ids=[stored.event_id], output_fields=["vector"], consistency_level=STRONG, timeout=30
        )
    assert np.allclose(row["vector"], batch.vectors[0])


@contextmanager
def _paused_for_a_while(servers: Servers) -> Iterator[None]:
    record = records.read_record(servers.stack.config.run, "milvus")
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
