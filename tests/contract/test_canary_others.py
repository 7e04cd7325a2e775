"""Marked texts and ids go through the failures of Redis, Milvus, Kafka and the embedding server: nothing shows them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from include.errors import ConfigurationError, PermanentError, TransientError, UnexpectedError
from include.settings import EmbedSettings, KafkaSettings, MilvusSettings, RedisSettings
from tests.canary import CANARY, ODD, Failure, LeakCheck, failures, find_in_logs
from tests.contract.batches import GENERATION, SHARDS, batch_of
from tests.contract.events import marked_event

if TYPE_CHECKING:
    from tests.contract.conftest import Servers

#: Milvus has one code for most of its refusals, so it cannot be told whether they are permanent.
_REFUSED = (PermanentError, TransientError, UnexpectedError)


@pytest.mark.servers("redis")
class TestRedis:
    """The driver quotes the command of a failed pipeline, and the server unknown commands with their arguments."""

    @pytest.fixture
    def limited(self, redis_settings: RedisSettings, unique: str) -> Iterator[RedisSettings]:
        """A login that may not do everything."""
        import redis

        with redis.Redis.from_url(redis_settings.url) as admin:
            admin.acl_setuser(
                unique, enabled=True, passwords=["+pw"], keys=["*"], categories=["+@all"], commands=["-pttl", "-zrange"]
            )
            yield RedisSettings(f"redis://{unique}:pw@{redis_settings.url.rpartition('@')[2]}")
            admin.acl_deluser(unique)

    def test_a_refused_command(self, leak: LeakCheck, limited: RedisSettings, unique: str) -> None:
        """The users of a refused pipeline are not quoted."""
        from include.stores.redis import RedisLists

        with closing(RedisLists(limited)) as lists:
            leak.fails(PermanentError, "NoPermissionError", lambda: lists.find_expiring(unique, [ODD], 60))
            leak.fails(PermanentError, "NoPermissionError", lambda: lists.read_recent_readers(0), quoted=False)

    def test_a_key_of_another_type(self, leak: LeakCheck, redis_settings: RedisSettings, unique: str) -> None:
        """A list that cannot be written is not quoted."""
        import redis

        from include.domain.recommendation_list import list_key
        from include.stores.redis import RedisLists

        with redis.Redis.from_url(redis_settings.url) as admin, closing(RedisLists(redis_settings)) as lists:
            admin.rpush(list_key(unique, ODD), "x")
            packed = bytes(8) + ODD.encode()
            leak.fails(
                PermanentError, "WRONGTYPE", lambda: lists.publish(unique, {ODD: packed}, {ODD: 60}), quoted=None
            )

    @failures(
        Failure(
            "unknown command",
            PermanentError,
            "Redis: ResponseError",
            lambda client: lambda: client.execute_command("MILLRACE", ODD),
        ),
        Failure(
            "in a pipeline",
            PermanentError,
            "Redis: ResponseError",
            lambda client: lambda: client.pipeline().execute_command("INCR", ODD, ODD).execute(),
        ),
    )
    def test_an_error_reply(self, leak: LeakCheck, redis_settings: RedisSettings, failure: Failure) -> None:
        """The server's reply is reduced to its kind."""
        from include.stores.redis import connect, translate_errors

        def call() -> None:
            with connect(redis_settings) as client, translate_errors():
                failure.provoke(client)()

        leak.fails(failure.kind, failure.match, call, quoted=failure.quoted)

    def test_an_unavailable_server(self, leak: LeakCheck) -> None:
        """The users of a lost call are not quoted."""
        from include.stores.redis import RedisLists

        with closing(RedisLists(RedisSettings("redis://127.0.0.1:1/0"))) as lists:
            leak.fails(
                TransientError, "Redis: ConnectionError", lambda: lists.find_expiring("g", [ODD], 60), quoted=None
            )
        leak.fails(ConfigurationError, "redis://", lambda: RedisLists(RedisSettings(f"http://{CANARY}")), quoted=None)

    def test_the_server_logs_no_value(self, servers: Servers) -> None:
        """After these failures, the server's log has no value either."""
        assert find_in_logs(servers.stack.config, "redis") == []


@pytest.mark.servers("milvus")
class TestMilvus:
    """pymilvus quotes rows and filters."""

    @pytest.fixture
    def sink(self, shared_milvus_settings: MilvusSettings) -> Iterator[Any]:
        from include.sinks.milvus import MilvusSink

        with closing(MilvusSink(shared_milvus_settings, GENERATION, SHARDS)) as sink:
            sink.prepare()
            yield sink

    def test_a_refused_batch(self, leak: LeakCheck, sink: Any) -> None:
        """Neither a row with an id that is too long nor one with a malformed vector is quoted."""
        import numpy as np

        too_long = batch_of([marked_event(user_id=ODD + "ü" * 400)])
        leak.fails(_REFUSED, "Milvus: MilvusException, code ", lambda: sink.upsert(too_long), quoted=None)
        batch = batch_of([marked_event()])
        for vectors in (batch.vectors[:, :3], batch.vectors.astype(str), np.array([[ODD] * GENERATION.dimension])):
            malformed = type(batch)(batch.ref, batch.events, batch.text_hashes, vectors)
            leak.fails(_REFUSED, ".", partial(sink.upsert, malformed), quoted=None)

    @failures(
        Failure(
            "malformed filter",
            _REFUSED,
            "Milvus: MilvusException, code ",
            lambda it: lambda: it(f'user_id == "{CANARY}" and and'),
        ),
        Failure(
            "wrong type in a filter",
            _REFUSED,
            "Milvus: MilvusException, code ",
            lambda it: lambda: it(f'version == "{CANARY}"'),
        ),
        Failure("unknown field", _REFUSED, "Milvus: MilvusException, code ", lambda it: lambda: it(f"{CANARY} == 1")),
    )
    def test_a_filter(self, leak: LeakCheck, sink: Any, failure: Failure) -> None:
        """A filter that Milvus cannot parse is not quoted."""
        from include.stores.milvus import TIMEOUT_S, translate_errors

        def query(text: str) -> None:
            with translate_errors():
                sink._client.query(sink._vectors.name, filter=text, timeout=TIMEOUT_S)

        leak.fails(failure.kind, failure.match, failure.provoke(query), quoted=failure.quoted)

    @pytest.mark.parametrize("changes", [{"occurred_at": ODD}, {"user_id": [ODD]}, {"vector": [ODD]}, {ODD: 1}])
    def test_a_row_of_the_wrong_type(self, leak: LeakCheck, sink: Any, changes: dict[str, Any]) -> None:
        """A row that the driver cannot encode is not quoted."""
        from include.stores.milvus import translate_errors

        row = {"id": ODD, "user_id": ODD, "occurred_at": 0, "version": 0, "digest": "", "vector": [1.0] * 8, **changes}

        def call() -> None:
            with translate_errors():
                sink._vectors.upsert(sink._client, [row], "shard_000")

        leak.fails(_REFUSED, ".", call, quoted=None)

    def test_the_server_logs_no_value(self, servers: Servers) -> None:
        """After these failures, the server's log has no value either."""
        assert find_in_logs(servers.stack.config, "milvus") == []


@pytest.mark.servers("kafka")
class TestKafka:
    """Kafka's errors are codes; what could quote a message is the broker's text about it."""

    @pytest.fixture
    def topics(self, kafka_settings: KafkaSettings) -> KafkaSettings:
        from include.sources.kafka_topics import ensure_topics

        ensure_topics(kafka_settings, 1)
        return kafka_settings

    def test_a_message_that_is_too_large(self, leak: LeakCheck, topics: KafkaSettings) -> None:
        """Neither its key nor its value is quoted, whether it is an event or a dead letter."""
        from include.domain.batch import DeadLetter, Record
        from include.domain.reasons import Reason
        from include.sources.kafka import KafkaDeadLetters
        from include.sources.kafka_producer import Publisher

        def publish(size: int) -> None:
            with closing(Publisher(topics)) as publisher:
                publisher.send(0, ODD.encode(), ODD.encode() * (size // len(ODD)))
                publisher.flush()

        def put(size: int) -> None:
            record = Record(0, 0, 0, ODD.encode(), ODD.encode() * (size // len(ODD)))
            with closing(KafkaDeadLetters(topics)) as letters:
                letters.put([DeadLetter(topics.topic, record, Reason.INVALID_JSON)])

        # More than each topic accepts, and more than the client does.
        random = 100_000_000
        leak.fails(PermanentError, "MSG_SIZE_TOO_LARGE", lambda: publish(random), quoted=None)
        leak.fails(PermanentError, "MSG_SIZE_TOO_LARGE", lambda: put(random), quoted=None)

    def test_a_message_that_is_not_a_dead_letter(
        self, leak: LeakCheck, topics: KafkaSettings, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Only its position is logged."""
        from include.sources.kafka import KafkaDeadLetters
        from include.sources.kafka_producer import AckedProducer

        with closing(AckedProducer(topics)) as producer:
            producer.send(topics.dead_letter_topic, key=ODD.encode(), value=ODD.encode(), headers=[("x", ODD.encode())])
            producer.flush()
        with closing(KafkaDeadLetters(topics)) as letters:
            assert list(letters.read()) == []
        assert "not a dead letter" in caplog.text
        leak.assert_silent()

    def test_an_unavailable_server(self, leak: LeakCheck) -> None:
        """An event that is not acknowledged is not quoted."""
        from include.sources.kafka_producer import Publisher

        def publish() -> None:
            with closing(Publisher(KafkaSettings("127.0.0.1:1", options={"delivery.timeout.ms": "1000"}))) as publisher:
                publisher.send(0, ODD.encode(), ODD.encode())
                publisher.flush()

        leak.fails(TransientError, "1 of 1 messages were not delivered", publish, quoted=None)

    def test_the_server_logs_no_value(self, servers: Servers) -> None:
        """After these failures, the server's log has no value either."""
        assert find_in_logs(servers.stack.config, "kafka") == []


@pytest.mark.servers("embed")
class TestEmbeddings:
    """Servers of the OpenAI protocol may quote the input; tests/unit/embedders has one that does."""

    @pytest.fixture
    def settings(self, servers: Servers) -> EmbedSettings:
        environment = servers.environment("embed")
        return EmbedSettings(environment["MILLRACE_EMBED_URL"], api_key=environment["MILLRACE_EMBED_API_KEY"])

    @pytest.mark.parametrize(
        ("changes", "text", "kind", "match"),
        [
            ({"api_key": "wrong"}, ODD, PermanentError, "401 .*invalid_api_key"),
            ({}, ODD + "x" * 34_000_000, PermanentError, "413 .*request_too_large"),
            ({}, f"{ODD}\ud800", UnexpectedError, "UnicodeEncodeError"),
            ({"url": "http://127.0.0.1:1/v1"}, ODD, TransientError, "ConnectError"),
        ],
        ids=["wrong key", "too large", "surrogate", "unavailable"],
    )
    def test_a_request(
        self,
        leak: LeakCheck,
        settings: EmbedSettings,
        changes: dict[str, str],
        text: str,
        kind: type[Exception],
        match: str,
    ) -> None:
        """A refused text is not quoted."""
        from dataclasses import replace

        from include.embedders.openai import OpenAIEmbedder

        with closing(OpenAIEmbedder(replace(settings, **changes))) as embedder:  # type: ignore[arg-type]
            leak.fails(kind, match, lambda: embedder.embed([text]), quoted=None)

    def test_the_server_logs_no_value(self, servers: Servers) -> None:
        """After these failures, the server's log has no value either."""
        assert find_in_logs(servers.stack.config, "embed") == []
