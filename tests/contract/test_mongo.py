"""The documents that the MongoDB sink writes, read back from the server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from include.bootstrap import SINKS
from include.domain.batch import BatchMode
from include.domain.event import Event, decode
from include.domain.identity import digest
from include.domain.precedence import Precedence
from include.errors import TransientError
from include.settings import MongoSettings
from include.sinks.mongo import MongoSink
from include.stores.mongo import unescape_names
from stack import records
from tests.contract.batches import batch_of
from tests.contract.conftest import Servers
from tests.contract.events import event
from tests.contract.probes import MongoProbe
from tests.contract.sink_suite import ServerSinkSuite, Subject

pytestmark = pytest.mark.servers("mongo")


class TestMongoSink(ServerSinkSuite):
    """The common suite on the server."""

    @pytest.fixture
    def subject(self, mongo_settings: MongoSettings, unique: str) -> Iterator[Subject]:
        """A sink on an empty database."""
        with closing(MongoSink(mongo_settings)) as sink, closing(MongoProbe(mongo_settings)) as probe:
            yield Subject(sink, probe, unique, SINKS["mongo"])

    def open_unavailable(self) -> MongoSink:
        return MongoSink(MongoSettings("mongodb://127.0.0.1:1/?timeoutMS=2000"))


@pytest.fixture
def sink(mongo_settings: MongoSettings) -> Iterator[MongoSink]:
    """A sink on an empty database."""
    with closing(MongoSink(mongo_settings)) as sink:
        yield sink


@pytest.fixture
def probe(mongo_settings: MongoSettings) -> Iterator[MongoProbe]:
    """Reads the documents of the database."""
    with closing(MongoProbe(mongo_settings)) as probe:
        yield probe


def _store(sink: MongoSink, probe: MongoProbe, **fields: Any) -> dict[str, Any]:
    message = {"user_id": "u", "message_id": "m", "kind": "view", "occurred_at": "2026-11-23T10:00:00Z", "item_id": "i"}
    event = decode(json.dumps({**message, **fields}).encode())
    sink.upsert(batch_of([event]))
    return probe.documents()[event.event_id]


def test_a_document_has_the_fields_of_its_event(sink: MongoSink, probe: MongoProbe) -> None:
    """Known fields have their own names, the time is a date, and absent fields are absent."""
    document = _store(sink, probe, value=1.25, version=7, text=None, campaign_id="c")
    digest = document.pop("digest")
    assert len(digest) == 32
    assert len(document.pop("_id")) == 32
    assert document == {
        "user_id": "u",
        "message_id": "m",
        "kind": "view",
        "occurred_at": datetime(2026, 11, 23, 10, tzinfo=UTC),
        "item_id": "i",
        "campaign_id": "c",
        "value": 1.25,
        "version": 7,
    }


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00.001Z", "1969-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"])
def test_every_valid_time_is_stored_as_a_date(sink: MongoSink, probe: MongoProbe, text: str) -> None:
    """Times from year 1 to year 9999 are stored with millisecond precision."""
    assert _store(sink, probe, occurred_at=text)["occurred_at"] == datetime.fromisoformat(text)


def test_unknown_fields_are_stored_completely(sink: MongoSink, probe: MongoProbe) -> None:
    """All names, types and depths are stored; names that MongoDB reads as operators are escaped."""
    unknown = {
        "plain": "text",
        "$where": {"a.b": [1, 2.5, True, None, {"$gt": ""}]},
        "＄": "was full-width before",
        "＼．": -(2**63),
        "": {"": 2**63 - 1},
        "_id": "mine",
        "__proto__": {"x": 1e308},
        "empty": [{}, [], ""],
    }
    document = _store(sink, probe, **unknown)
    assert unescape_names(document["extra"]) == unknown
    assert "＄where" in document["extra"]


def test_a_newer_version_replaces_the_whole_document(sink: MongoSink, probe: MongoProbe) -> None:
    """Fields of the older version do not remain."""
    _store(sink, probe, colour="red", campaign_id="c")
    document = _store(sink, probe, version=1)
    assert "extra" not in document
    assert "campaign_id" not in document


class _RacedSink(MongoSink):
    """Another writer stores a revision after each of the first comparisons."""

    others: list[Event]

    def _read_stored(self, ids: Iterable[str]) -> dict[str, Precedence]:
        stored = super()._read_stored(ids)
        if self.others:
            MongoSink.upsert(self._other, batch_of([self.others.pop(0)]))
        return stored

    def __init__(self, settings: MongoSettings, others: Iterable[Event]) -> None:
        super().__init__(settings)
        self._other = MongoSink(settings)
        self.others = list(others)

    def close(self) -> None:
        super().close()
        self._other.close()


def _revision(version: int, text: str = "t") -> Event:
    return Event(user_id="u", message_id="m", kind="view", occurred_at=1, text=text, version=version)


@pytest.mark.parametrize(("others", "winner"), [([2, 3], 5), ([2, 7], 7), ([5], 5)])
def test_a_writer_that_comes_between_is_compared_too(
    mongo_settings: MongoSettings, probe: MongoProbe, others: list[int], winner: int
) -> None:
    """The newest of the stored, written and intermediate revisions stays, and a neighbour is written as well."""
    neighbour = Event(user_id="n", message_id="m", kind="view", occurred_at=1, text="t", version=1)
    with closing(_RacedSink(mongo_settings, [])) as sink:
        sink.upsert(batch_of([_revision(1), msgspec.structs.replace(neighbour, version=0)]))
        sink.others = [_revision(version) for version in others]
        sink.upsert(batch_of([_revision(5), neighbour]))
    assert probe.documents()[neighbour.event_id]["version"] == 1
    assert probe.documents()[_revision(0).event_id]["version"] == winner


@pytest.mark.parametrize("mode", BatchMode)
@pytest.mark.parametrize(("others", "winner"), [([], 5), ([3], 5), ([7], 7)])
def test_new_and_stored_events_may_be_mixed(
    mongo_settings: MongoSettings, probe: MongoProbe, mode: BatchMode, others: list[int], winner: int
) -> None:
    """A live batch inserts first and a replay reads first; both store the same, whoever writes in between."""
    batch = batch_of([_revision(5), event(message_id="new"), event(message_id="equal"), event(message_id="older")])
    before = [_revision(1), event(message_id="equal"), event(message_id="older", version=9)]
    with closing(_RacedSink(mongo_settings, [])) as sink:
        sink.upsert(batch_of(before))
        sink.others = [_revision(version) for version in others]
        assert sink.upsert(replace(batch, ref=msgspec.structs.replace(batch.ref, mode=mode))) == 4
    versions = {document["message_id"]: document["version"] for document in probe.documents().values()}
    assert versions == {"m": winner, "new": 0, "equal": 0, "older": 9}


@pytest.mark.parametrize(("version", "deleted"), [(4, 1), (5, 0)])
def test_a_revision_stored_before_a_delete_is_compared_too(
    mongo_settings: MongoSettings, probe: MongoProbe, version: int, deleted: int
) -> None:
    """It is deleted as well unless it is newer."""
    with closing(_RacedSink(mongo_settings, [])) as sink:
        sink.upsert(batch_of([_revision(1)]))
        sink.others = [_revision(version)]
        event = _revision(4)
        key = {"event_id": event.event_id, "user_id": "u", "version": 4, "digest": event.digest}
        assert sink.delete(pa.Table.from_pylist([key])) == deleted
    assert len(probe.documents()) == 1 - deleted


def test_writers_that_never_stop_are_an_outage(mongo_settings: MongoSettings) -> None:
    """After some attempts the batch is left for a retry."""
    with closing(_RacedSink(mongo_settings, [])) as sink:
        sink.upsert(batch_of([_revision(0)]))
        sink.others = [_revision(n) for n in range(1, 50)]
        with pytest.raises(TransientError, match="other writers keep changing"):
            sink.upsert(batch_of([_revision(50)]))
        sink.others = []


def test_the_local_server_does_not_lose_acknowledged_writes(servers: Servers, mongo_settings: MongoSettings) -> None:
    """If the stand-in is killed right after it responds, every document can be read after its restart."""
    with MongoClient[dict[str, Any]](mongo_settings.uri, serverSelectionTimeoutMS=60_000) as client:
        documents = client[mongo_settings.database]["killed"]
        for part in range(5):
            # Random ids, so that pages that are in the file already are rewritten.
            documents.insert_many({"_id": digest(b"%d" % (2_000 * part + n)), "text": "x" * 200} for n in range(2_000))
        record = records.read_record(servers.stack.config.run, "mongo")
        assert record is not None
        records.kill({record.pid})
        assert records.wait_until_gone(record, 10)
        _wait_until_up(client)
        assert len(list(documents.find())) == documents.count_documents({}) == 10_000


def _wait_until_up(client: MongoClient[dict[str, Any]]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            client.admin.command("ping")
        except PyMongoError:
            assert time.monotonic() < deadline, "the server was not restarted"
            time.sleep(0.1)
        else:
            return
