"""Settings from the environment: what must be there, what is assumed, and what is said of a wrong one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.domain.generation import Generation
from include.errors import ConfigurationError
from include.settings import (
    EmbedSettings,
    KafkaSettings,
    MilvusSettings,
    Neo4jSettings,
    PipelineSettings,
    Settings,
    pipeline_settings,
)

NEEDED = {
    "MILLRACE_KAFKA_BOOTSTRAP": "kafka:9092",
    "MILLRACE_MONGO_URI": "mongodb://u:mongo-secret@mongo/",
    "MILLRACE_MILVUS_URI": "http://milvus:19530",
    "MILLRACE_NEO4J_URI": "neo4j://neo4j:7687",
    "MILLRACE_WAREHOUSE_DSN": "postgresql://u:warehouse-secret@postgres/warehouse",
    "MILLRACE_REDIS_URL": "redis://:redis-secret@redis/0",
    "MILLRACE_EMBED_URL": "http://embed/v1",
}
SECRETS = {
    "MILLRACE_MILVUS_TOKEN": "milvus-secret",
    "MILLRACE_NEO4J_PASSWORD": "neo4j-secret",
    "MILLRACE_EMBED_API_KEY": "embed-secret",
}
LIMITS = {
    "shards": (1, 4096),
    "batch_size": (1, 1_000_000),
    "list_ttl_minutes": (5, 15),
    "active_days": (1, 36_500),
    "users_per_chunk": (1, 100_000),
}


def test_addresses_are_enough() -> None:
    """With an address for each server, everything else has its default."""
    settings = Settings.from_environment(NEEDED)
    assert settings.kafka == KafkaSettings("kafka:9092", "events", "events.dead-letters", "millrace", {})
    assert settings.mongo.uri == NEEDED["MILLRACE_MONGO_URI"]
    assert settings.milvus == MilvusSettings("http://milvus:19530")
    assert settings.neo4j == Neo4jSettings("neo4j://neo4j:7687", user="neo4j", password="")
    assert settings.warehouse.dsn == NEEDED["MILLRACE_WAREHOUSE_DSN"]
    assert settings.redis.url == NEEDED["MILLRACE_REDIS_URL"]
    assert settings.embed == EmbedSettings("http://embed/v1")
    assert settings.pipeline == PipelineSettings()


def test_every_variable_arrives_in_its_place() -> None:
    """No two variables are mixed up."""
    others = {
        "MILLRACE_NEO4J_USER": "reader",
        "MILLRACE_TOPIC": "clicks",
        "MILLRACE_DEAD_LETTER_TOPIC": "clicks.bad",
        "MILLRACE_SHARDS": "64",
        "MILLRACE_BATCH_SIZE": "7",
        "MILLRACE_BATCH_PATH": "s3://bucket/batches",
        "MILLRACE_AS_OF": "newest_event",
        "MILLRACE_LIST_TTL_MINUTES": "5",
        "MILLRACE_ACTIVE_DAYS": "all",
        "MILLRACE_USERS_PER_CHUNK": "9",
    }
    settings = Settings.from_environment({**NEEDED, **SECRETS, **others})
    assert settings.milvus.token == "milvus-secret"
    assert (settings.neo4j.user, settings.neo4j.password) == ("reader", "neo4j-secret")
    assert settings.embed.api_key == "embed-secret"
    assert (settings.kafka.topic, settings.kafka.dead_letter_topic) == ("clicks", "clicks.bad")
    assert settings.pipeline == PipelineSettings(64, 7, "s3://bucket/batches", "newest_event", 300, None, 9)


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_address_is_named(name: str, value: str | None) -> None:
    """The error says which variable is not set, and how the local stack sets it; empty is not set."""
    rest = {key: text for key, text in NEEDED.items() if key != name}
    with pytest.raises(ConfigurationError, match=rf"^{name} is not set.*include\.local env"):
        Settings.from_environment(rest if value is None else {**rest, name: value})


def test_what_is_empty_has_its_default() -> None:
    """A variable that Compose hands on without a value is as if it were not set."""
    names = ["TOPIC", "DEAD_LETTER_TOPIC", "NEO4J_USER", "SHARDS", "BATCH_PATH", "AS_OF", "ACTIVE_DAYS"]
    empty = {f"MILLRACE_{name}": "" for name in names}
    assert Settings.from_environment({**NEEDED, **empty}) == Settings.from_environment(NEEDED)


def test_nothing_else_of_the_environment_counts() -> None:
    """Variables without our prefix, and ours that this part does not know, change nothing."""
    others = {"SHARDS": "9", "batch_size": "9", "MILLRACE_HOME": "/x", "MILLRACE_PORT_KAFKA": "1"}
    assert Settings.from_environment({**NEEDED, **others}) == Settings.from_environment(NEEDED)


def test_no_secret_is_shown() -> None:
    """A log line or a traceback with the settings has no password, token or key in it."""
    shown = repr(Settings.from_environment({**NEEDED, **SECRETS}))
    kafka = KafkaSettings.from_properties({"bootstrap.servers": "kafka:9092", "sasl.password": "kafka-secret"})
    assert kafka.options == {"sasl.password": "kafka-secret"}
    assert "kafka:9092" in repr(kafka)
    assert "neo4j://neo4j:7687" in shown
    assert "secret" not in shown + repr(kafka)


@pytest.mark.parametrize(("name", "limits"), LIMITS.items())
def test_numbers_have_limits(name: str, limits: tuple[int, int]) -> None:
    """The least and the most are taken; one beyond either, or no whole number, is an error with setting and limits."""
    least, most = limits
    for right in limits:
        taken = pipeline_settings({name: str(right)})
        assert (taken.list_ttl_s // 60 if name == "list_ttl_minutes" else getattr(taken, name)) == right
    for wrong in (str(least - 1), str(most + 1), "-1", "1.5", "ten", "0x10", "nan"):
        expected = rf"millrace_{name} \(MILLRACE_{name.upper()} .*\) is '{re.escape(wrong)}'.* {least} to {most}"
        with pytest.raises(ConfigurationError, match=expected):
            pipeline_settings({name: wrong})


def test_the_error_of_active_days_names_all() -> None:
    """Who reads the message learns of the word that the setting takes beside numbers."""
    with pytest.raises(ConfigurationError, match=r"or all$"):
        pipeline_settings({"active_days": "ALL"})


@pytest.mark.parametrize("wrong", ["yesterday", "NOW", "2026-01-01", " now"])
def test_as_of_is_one_of_two_words(wrong: str) -> None:
    """Anything else is an error that names the setting, its value and both words."""
    assert pipeline_settings({"as_of": "newest_event"}).as_of == "newest_event"
    with pytest.raises(ConfigurationError, match=rf"MILLRACE_AS_OF .*'{wrong}'.* now or newest_event"):
        pipeline_settings({"as_of": wrong})


@given(st.dictionaries(st.sampled_from([*LIMITS, "as_of", "batch_path"]), st.text(max_size=6), max_size=4))
def test_any_text_is_taken_or_refused(values: dict[str, str]) -> None:
    """Nothing but our own error comes out, and what is taken is within its limits."""
    try:
        taken = pipeline_settings(values)
    except ConfigurationError:
        return
    assert 1 <= taken.shards <= 4096
    assert 1 <= taken.batch_size <= 1_000_000
    assert 300 <= taken.list_ttl_s <= 900
    assert taken.active_days is None or taken.active_days >= 1
    assert taken.as_of in ("now", "newest_event")


def test_kafka_properties_are_ours_or_options() -> None:
    """Topic, dead letters and group are taken out; every other property goes to each client as text."""
    properties = {"bootstrap.servers": "k:1", "topic": "t", "dead_letter_topic": "d", "group.id": "g", "linger.ms": 5}
    assert KafkaSettings.from_properties(properties) == KafkaSettings("k:1", "t", "d", "g", {"linger.ms": "5"})
    assert KafkaSettings.from_properties({"bootstrap.servers": "k:1"}) == KafkaSettings("k:1")


@pytest.mark.parametrize("properties", [{}, {"bootstrap.servers": ""}, {"bootstrap_servers": "k:1"}])
def test_kafka_without_servers_is_named(properties: dict[str, object]) -> None:
    """The error shows the connection and the property as it is written."""
    with pytest.raises(ConfigurationError, match=r'kafka_default.*"bootstrap\.servers"'):
        KafkaSettings.from_properties(properties)


def test_the_generation_follows_the_model() -> None:
    """Model, revision and dimension each make another generation."""
    base = EmbedSettings(url="u")
    assert base.generation == Generation("all-MiniLM-L6-v2", "0.1.0", 384)
    assert base.generation.name == "all_minilm_l6_v2_0_1_0_384"
    others = [
        EmbedSettings(url="u", model="other"),
        EmbedSettings(url="u", revision="0.1.1"),
        EmbedSettings(url="u", dimension=768),
    ]
    assert len({base.generation.name, *(other.generation.name for other in others)}) == 4
    assert EmbedSettings(url="another", api_key="k").generation == base.generation


@given(st.text(max_size=20), st.text(max_size=10), st.integers(1, 4096))
def test_a_generation_has_a_plain_name(model: str, revision: str, dimension: int) -> None:
    """Whatever a model is called, stores can have its name in theirs: letters, digits and underscores."""
    assert re.fullmatch(r"[a-z0-9_]+", Generation(model, revision, dimension).name)
