"""Settings from the environment: required ones, defaults, and errors about wrong ones."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.bootstrap import open_files
from include.domain.generation import Generation
from include.errors import ConfigurationError
from include.settings import (
    EmbedSettings,
    EnvironmentSettings,
    KafkaSettings,
    MilvusSettings,
    Neo4jSettings,
    PipelineSettings,
    StoreSettings,
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
    "batch_bytes": (2**20, 4 * 2**30),
    "max_reject_percent": (0, 100),
    "reject_window": (1, 1_000_000),
}


def test_addresses_are_enough() -> None:
    """With an address for each server, everything else takes its default."""
    settings = EnvironmentSettings(NEEDED)
    assert settings.kafka == KafkaSettings("kafka:9092", "events", "events.dead-letters", "millrace", {})
    assert settings.mongo.uri == NEEDED["MILLRACE_MONGO_URI"]
    assert settings.milvus == MilvusSettings("http://milvus:19530")
    assert settings.neo4j == Neo4jSettings("neo4j://neo4j:7687", user="neo4j", password="")
    assert settings.warehouse.dsn == NEEDED["MILLRACE_WAREHOUSE_DSN"]
    assert settings.redis.url == NEEDED["MILLRACE_REDIS_URL"]
    assert settings.embed == EmbedSettings("http://embed/v1")
    assert settings.pipeline == PipelineSettings()


@pytest.mark.parametrize("environment", [{}, {"MILLRACE_BATCH_PATH": ""}])
def test_the_batch_path_has_no_default(environment: dict[str, str]) -> None:
    """Without it no file is written; the error names the setting and an example. Other settings do not need it."""
    settings = EnvironmentSettings(environment)
    assert settings.pipeline.shards == 4
    with pytest.raises(ConfigurationError, match=r"MILLRACE_BATCH_PATH is not set.*file:///var/lib/.*s3://"):
        open_files(settings)


def test_every_variable_sets_its_own_field() -> None:
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
        "MILLRACE_BATCH_BYTES": "2000000",
        "MILLRACE_MAX_REJECT_PERCENT": "10",
        "MILLRACE_REJECT_WINDOW": "50",
    }
    settings = EnvironmentSettings({**NEEDED, **SECRETS, **others})
    assert settings.milvus.token == "milvus-secret"
    assert (settings.neo4j.user, settings.neo4j.password) == ("reader", "neo4j-secret")
    assert settings.embed.api_key == "embed-secret"
    assert (settings.kafka.topic, settings.kafka.dead_letter_topic) == ("clicks", "clicks.bad")
    assert settings.pipeline == PipelineSettings(
        shards=64,
        batch_size=7,
        batch_bytes=2_000_000,
        max_reject_percent=10,
        reject_window=50,
        batch_path="s3://bucket/batches",
        as_of="newest_event",
        list_ttl_s=300,
        active_days=None,
        users_per_chunk=9,
    )


SECTIONS = ["kafka", "mongo", "milvus", "neo4j", "warehouse", "redis", "embed", "pipeline"]


def read_all(environment: dict[str, str]) -> list[object]:
    """Every section of the settings from this environment."""
    settings = EnvironmentSettings(environment)
    return [getattr(settings, section) for section in SECTIONS]


@pytest.mark.parametrize(("name", "section"), zip(NEEDED, SECTIONS, strict=False))
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_address_is_named(name: str, section: str, value: str | None) -> None:
    """The error names the variable and says how to get it from the local stack; an empty value counts as missing."""
    environment = {key: text for key, text in NEEDED.items() if key != name}
    settings = EnvironmentSettings(environment if value is None else {**environment, name: value})
    with pytest.raises(ConfigurationError, match=rf"^{name} is not set.*stack env"):
        getattr(settings, section)


@pytest.mark.parametrize(("name", "section"), zip(NEEDED, SECTIONS, strict=False))
def test_a_section_needs_no_other(name: str, section: str) -> None:
    """A section can be read when only its own address is set: a command asks only for the servers that it uses."""
    getattr(EnvironmentSettings({name: NEEDED[name]}), section)


def test_an_empty_variable_takes_its_default() -> None:
    """A variable that Compose passes on without a value counts as not set."""
    names = ["TOPIC", "DEAD_LETTER_TOPIC", "NEO4J_USER", "SHARDS", "BATCH_PATH", "AS_OF", "ACTIVE_DAYS"]
    empty = {f"MILLRACE_{name}": "" for name in names}
    assert read_all({**NEEDED, **empty}) == read_all(NEEDED)


def test_other_variables_are_ignored() -> None:
    """Variables without the prefix, and those that belong to other parts, change nothing."""
    others = {"SHARDS": "9", "batch_size": "9", "MILLRACE_HOME": "/x", "MILLRACE_PORT_KAFKA": "1"}
    assert read_all({**NEEDED, **others}) == read_all(NEEDED)


def test_kafka_options_reach_a_secured_server() -> None:
    """MILLRACE_KAFKA_OPTIONS is a JSON object of librdkafka properties; booleans become the text that they expect."""
    options = '{"security.protocol": "SASL_SSL", "sasl.password": "p w", "enable.ssl.certificate.verification": true}'
    settings = EnvironmentSettings({**NEEDED, "MILLRACE_KAFKA_OPTIONS": options, "MILLRACE_KAFKA_GROUP": "g"})
    assert settings.kafka.group == "g"
    assert settings.kafka.options == {
        "security.protocol": "SASL_SSL",
        "sasl.password": "p w",
        "enable.ssl.certificate.verification": "true",
    }


@pytest.mark.parametrize("wrong", ["secret", "[1]", '{"a": {"b": 1}}', '{"a": null}', '"text"'])
def test_options_that_are_not_a_json_object_are_rejected_without_showing_them(wrong: str) -> None:
    """The error names the variable and its form, and does not repeat the value: it may hold a password."""
    settings = EnvironmentSettings({**NEEDED, "MILLRACE_KAFKA_OPTIONS": wrong})
    with pytest.raises(ConfigurationError, match=r"^MILLRACE_KAFKA_OPTIONS must be a JSON object") as caught:
        _ = settings.kafka
    assert wrong not in str(caught.value)


def test_a_store_without_a_section_has_an_address_and_options() -> None:
    """A sink that is added reads MILLRACE_<NAME>_URL and MILLRACE_<NAME>_OPTIONS."""
    environment = {"MILLRACE_SEARCH_URL": "http://search:9200", "MILLRACE_SEARCH_OPTIONS": '{"tls": true}'}
    server = EnvironmentSettings(environment).store("search")
    assert server == StoreSettings("http://search:9200", {"tls": "true"})
    with pytest.raises(ConfigurationError, match=r"^MILLRACE_OTHER_URL is not set"):
        EnvironmentSettings(environment).store("other")


def test_no_secret_is_shown() -> None:
    """A log line or a traceback with the settings contains no password, token or key."""
    shown = repr(read_all({**NEEDED, **SECRETS}))
    kafka = KafkaSettings.from_properties({"bootstrap.servers": "kafka:9092", "sasl.password": "kafka-secret"})
    assert kafka.options == {"sasl.password": "kafka-secret"}
    assert "kafka:9092" in repr(kafka)
    assert "neo4j://neo4j:7687" in shown
    assert "secret" not in shown + repr(kafka)


@pytest.mark.parametrize(("name", "limits"), LIMITS.items())
def test_numbers_have_limits(name: str, limits: tuple[int, int]) -> None:
    """Both limits are accepted; a value beyond them, or not a whole number, is an error that names them."""
    least, most = limits
    for right in limits:
        accepted = pipeline_settings({name: str(right)})
        assert (accepted.list_ttl_s // 60 if name == "list_ttl_minutes" else getattr(accepted, name)) == right
    for wrong in (str(least - 1), str(most + 1), "-1", "1.5", "ten", "0x10", "nan"):
        expected = rf"millrace_{name} \(MILLRACE_{name.upper()} .*\) is '{re.escape(wrong)}'.* {least} to {most}"
        with pytest.raises(ConfigurationError, match=expected):
            pipeline_settings({name: wrong})


def test_the_error_of_active_days_names_all() -> None:
    """The message mentions the word that the setting accepts besides numbers."""
    with pytest.raises(ConfigurationError, match=r"or all$"):
        pipeline_settings({"active_days": "ALL"})


@pytest.mark.parametrize("wrong", ["yesterday", "NOW", "2026-01-01", " now"])
def test_as_of_is_one_of_two_words(wrong: str) -> None:
    """Any other value is an error that names the setting, the value and both words."""
    assert pipeline_settings({"as_of": "newest_event"}).as_of == "newest_event"
    with pytest.raises(ConfigurationError, match=rf"MILLRACE_AS_OF .*'{wrong}'.* now or newest_event"):
        pipeline_settings({"as_of": wrong})


@given(st.dictionaries(st.sampled_from([*LIMITS, "as_of", "batch_path"]), st.text(max_size=6), max_size=4))
def test_any_text_is_accepted_or_rejected(values: dict[str, str]) -> None:
    """Only a ConfigurationError is raised, and accepted values are within their limits."""
    try:
        accepted = pipeline_settings(values)
    except ConfigurationError:
        return
    assert 1 <= accepted.shards <= 4096
    assert 1 <= accepted.batch_size <= 1_000_000
    assert 300 <= accepted.list_ttl_s <= 900
    assert accepted.active_days is None or accepted.active_days >= 1
    assert accepted.as_of in ("now", "newest_event")


def test_other_kafka_properties_are_options() -> None:
    """Topic, dead-letter topic and group have fields; every other property goes to each client as text."""
    properties = {"bootstrap.servers": "k:1", "topic": "t", "dead_letter_topic": "d", "group.id": "g", "linger.ms": 5}
    assert KafkaSettings.from_properties(properties) == KafkaSettings("k:1", "t", "d", "g", {"linger.ms": "5"})
    assert KafkaSettings.from_properties({"bootstrap.servers": "k:1"}) == KafkaSettings("k:1")


@pytest.mark.parametrize("properties", [{}, {"bootstrap.servers": ""}, {"bootstrap_servers": "k:1"}])
def test_kafka_without_servers_is_named(properties: dict[str, object]) -> None:
    """The error names the connection and the property."""
    with pytest.raises(ConfigurationError, match=r'kafka_default.*"bootstrap\.servers"'):
        KafkaSettings.from_properties(properties)


def test_the_generation_follows_the_model() -> None:
    """A different model, revision, dimension or length of texts makes a different generation."""
    base = EmbedSettings(url="u")
    assert base.generation == Generation("all-MiniLM-L6-v2", "0.1.0", 384)
    assert base.generation.name == "all_minilm_l6_v2_0_1_0_384"
    others = [
        EmbedSettings(url="u", model="other"),
        EmbedSettings(url="u", revision="0.1.1"),
        EmbedSettings(url="u", dimension=768),
        EmbedSettings(url="u", max_characters=8_000),
    ]
    assert len({base.generation.name, *(other.generation.name for other in others)}) == 5
    assert EmbedSettings(url="another", api_key="k").generation == base.generation


@given(st.text(max_size=20), st.text(max_size=10), st.integers(1, 4096))
def test_a_generation_has_a_plain_name(model: str, revision: str, dimension: int) -> None:
    """Whatever a model is called, the name is made of letters, digits and underscores, which every store accepts."""
    assert re.fullmatch(r"[a-z0-9_]+", Generation(model, revision, dimension).name)
