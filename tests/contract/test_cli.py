"""What the operator's command line shows about a running system."""

from __future__ import annotations

from contextlib import closing

import pytest

from include.cli import __main__ as cli
from include.domain.batch import BatchMode, BatchRef, StageCounts
from include.domain.offsets import Offsets
from include.errors import ConfigurationError
from include.settings import KafkaSettings, WarehouseSettings

ADDRESSES = ["MONGO_URI", "MILVUS_URI", "NEO4J_URI", "REDIS_URL", "EMBED_URL", "KAFKA_BOOTSTRAP", "WAREHOUSE_DSN"]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No address is set; each test sets the one that its command needs, and no more."""
    for name in ADDRESSES:
        monkeypatch.delenv(f"MILLRACE_{name}", raising=False)


@pytest.fixture
def topic(kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> KafkaSettings:
    """Empty topics that the command line reads."""
    from include.sources.kafka_topics import ensure_topics

    ensure_topics(kafka_settings, 2)
    monkeypatch.setenv("MILLRACE_KAFKA_BOOTSTRAP", kafka_settings.bootstrap)
    monkeypatch.setenv("MILLRACE_TOPIC", kafka_settings.topic)
    monkeypatch.setenv("MILLRACE_DEAD_LETTER_TOPIC", kafka_settings.dead_letter_topic)
    return kafka_settings


@pytest.fixture
def lossy_topic(topic: KafkaSettings) -> str:
    """A topic whose first shard had five messages, of which retention has removed three."""
    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import AdminClient

    from include.sources.kafka_producer import Publisher

    with closing(Publisher(topic)) as publisher:
        for _ in range(5):
            publisher.send(0, b"u", b"{}")
        publisher.flush()
    admin = AdminClient({"bootstrap.servers": topic.bootstrap})
    for future in admin.delete_records([TopicPartition(topic.topic, 0, 3)]).values():
        future.result(timeout=20)
    return topic.topic


@pytest.fixture
def warehouse(warehouse_dsn: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty warehouse for the command line."""
    monkeypatch.setenv("MILLRACE_WAREHOUSE_DSN", warehouse_dsn)
    return warehouse_dsn


@pytest.mark.servers("postgres")
def test_warnings_are_shown_with_their_batch(
    warehouse: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line per warning, by shard and offset, with the range of its batch; other topics are left out."""
    from include.stores.warehouse.warehouse import Warehouse

    batches = [
        (BatchRef("events", 1, 0, 9), ["many repeats"]),
        (BatchRef("events", 0, 5, 9), ["many repeats", "many unknown kinds: é"]),
        (BatchRef("events", 0, 0, 5), []),
        (BatchRef("events", 0, 0, 7, BatchMode.RANGE), ["early"]),
        (BatchRef("other", 0, 0, 5), ["of another topic"]),
    ]
    with closing(Warehouse(WarehouseSettings(warehouse))) as opened:
        for ref, warnings in batches:
            opened.ledger.record_staged(opened.ledger.claim_range(ref), StageCounts(warnings=warnings))
    assert cli.main(["warnings"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "events[0] 0-7: early",
        "events[0] 5-9: many repeats",
        "events[0] 5-9: many unknown kinds: é",
        "events[1] 0-9: many repeats",
    ]
    monkeypatch.setenv("MILLRACE_TOPIC", "other")
    assert cli.main(["warnings"]) == 0
    assert capsys.readouterr().out.splitlines() == ["other[0] 0-5: of another topic"]


@pytest.mark.servers("postgres")
def test_an_empty_warehouse_has_no_warnings(warehouse: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the first batch there is nothing to show, which is not an error."""
    assert cli.main(["warnings"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.servers("kafka", "postgres")
def test_lost_offsets_are_given_up_on_demand(
    warehouse: str, lossy_topic: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --yes the command only shows what it would give up; with it, the ledger continues behind the gap."""
    from include.stores.warehouse.warehouse import Warehouse

    with closing(Warehouse(WarehouseSettings(warehouse))) as opened:
        ref = opened.ledger.claim(lossy_topic, 0, Offsets(0, 2), 10)
        assert ref is not None
        assert cli.main(["skip-lost", "--shard", "0"]) == 1
        assert "offsets 0 to 3" in capsys.readouterr().out
        assert opened.ledger.read_position(lossy_topic, 0) is None
        assert cli.main(["skip-lost", "--shard", "0", "--yes"]) == 0
        assert "(3 messages); the next run reads from 3" in capsys.readouterr().out
        assert opened.ledger.read_position(lossy_topic, 0) == 3
        assert cli.main(["skip-lost", "--shard", "0"]) == 0
        assert "has lost nothing" in capsys.readouterr().out


@pytest.mark.servers("postgres")
def test_a_recreated_topic_is_restarted_on_demand(warehouse: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --yes the ledger stays as it is; with it, the topic's batches and its id are forgotten."""
    from include.stores.warehouse.warehouse import Warehouse

    with closing(Warehouse(WarehouseSettings(warehouse))) as opened:
        opened.ledger.confirm_topic("events", "one")
        opened.ledger.claim("events", 0, Offsets(0, 2), 10)
        assert cli.main(["restart-topic"]) == 1
        with pytest.raises(ConfigurationError):
            opened.ledger.confirm_topic("events", "two")
        assert cli.main(["restart-topic", "--yes"]) == 0
        assert "forgot 1 batches of events" in capsys.readouterr().out
        opened.ledger.confirm_topic("events", "two")
