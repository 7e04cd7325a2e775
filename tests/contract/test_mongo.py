"""The documents that the MongoDB sink leaves, read back from the server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from include.domain.event import decode
from include.domain.identity import digest
from include.settings import MongoSettings
from include.sinks.mongo import MongoSink
from include.stores.mongo import restored
from stack import records
from tests.contract.batches import batch_of
from tests.contract.conftest import Servers
from tests.contract.probes import MongoProbe

pytestmark = pytest.mark.servers("mongo")


@pytest.fixture
def sink(mongo_settings: MongoSettings) -> Iterator[MongoSink]:
    """A sink on an empty database."""
    with closing(MongoSink(mongo_settings)) as sink:
        yield sink


@pytest.fixture
def probe(mongo_settings: MongoSettings) -> Iterator[MongoProbe]:
    """What the database holds."""
    with closing(MongoProbe(mongo_settings)) as probe:
        yield probe


def _stored(sink: MongoSink, probe: MongoProbe, **fields: Any) -> dict[str, Any]:
    message = {"user_id": "u", "message_id": "m", "kind": "view", "occurred_at": "2026-11-23T10:00:00Z", "item_id": "i"}
    event = decode(json.dumps({**message, **fields}).encode())
    sink.upsert(batch_of([event]))
    return probe.documents()[event.event_id]


def test_a_document_is_the_record_as_received_and_cleaned(sink: MongoSink, probe: MongoProbe) -> None:
    """Known fields under their names, the time as a date, absent fields absent."""
    document = _stored(sink, probe, value=1.25, version=7, text=None, campaign_id="c")
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
def test_every_time_that_an_event_may_have_is_a_date(sink: MongoSink, probe: MongoProbe, text: str) -> None:
    """From the year 1 to the year 9999, to the millisecond."""
    assert _stored(sink, probe, occurred_at=text)["occurred_at"] == datetime.fromisoformat(text)


def test_unknown_fields_are_kept_whole(sink: MongoSink, probe: MongoProbe) -> None:
    """Whatever their names, types and depth; the names that MongoDB would read as operators have full-width twins."""
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
    document = _stored(sink, probe, **unknown)
    assert restored(document["extra"]) == unknown
    assert "＄where" in document["extra"]


def test_a_replaced_document_keeps_nothing_of_the_older(sink: MongoSink, probe: MongoProbe) -> None:
    """The newer content replaces the document, it is not merged into it."""
    _stored(sink, probe, colour="red", campaign_id="c")
    document = _stored(sink, probe, version=1)
    assert "extra" not in document
    assert "campaign_id" not in document


def test_the_local_server_loses_nothing_that_it_acknowledged(servers: Servers, mongo_settings: MongoSettings) -> None:
    """Killed right after it answered, the stand-in comes back with every document, and each can be read."""
    with MongoClient[dict[str, Any]](mongo_settings.uri, serverSelectionTimeoutMS=60_000) as client:
        documents = client[mongo_settings.database]["killed"]
        for part in range(5):
            # In no order, so that pages which are in the file already are written anew.
            documents.insert_many({"_id": digest(b"%d" % (2_000 * part + n)), "text": "x" * 200} for n in range(2_000))
        record = records.read(servers.stack.config.run, "mongo")
        assert record is not None
        records.kill({record.pid})
        assert records.wait_gone(record, 10)
        _wait_until_it_answers(client)
        assert len(list(documents.find())) == documents.count_documents({}) == 10_000


def _wait_until_it_answers(client: MongoClient[dict[str, Any]]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            client.admin.command("ping")
        except PyMongoError:
            assert time.monotonic() < deadline, "the server was not started again"
            time.sleep(0.1)
        else:
            return
