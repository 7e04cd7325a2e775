"""Every setting, read once from a mapping: the environment in a shell, Airflow's connections in a task.

``Settings.from_environment(os.environ)`` and ``dags/dag_factories/connections.py`` are the only two readers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from include.domain.generation import Generation
from include.errors import ConfigurationError

#: How recency is counted: from the clock, or from the newest stored event (a file of old events has its own end).
type AsOf = Literal["now", "newest_event"]

PREFIX = "MILLRACE_"


@dataclass(frozen=True)
class KafkaSettings:
    """``options`` are librdkafka properties that go to every client (security.protocol and so on)."""

    bootstrap: str
    topic: str = "events"
    dead_letter_topic: str = "events.dead-letters"
    group: str = "millrace"
    options: Mapping[str, str] = field(default_factory=dict, repr=False)  # sasl.password may be one of them

    @classmethod
    def from_properties(cls, properties: Mapping[str, object]) -> KafkaSettings:
        """From librdkafka properties, as Airflow's Kafka connection has them in its extra.

        ``group.id``, ``topic`` and ``dead_letter_topic`` may stand there too; every other property is an option.
        """
        values = {name: str(value) for name, value in properties.items()}
        bootstrap = values.pop("bootstrap.servers", "")
        if not bootstrap:
            raise ConfigurationError('connection kafka_default: its extra needs {"bootstrap.servers": "host:port"}')
        return cls(
            bootstrap=bootstrap,
            topic=values.pop("topic", cls.topic),
            dead_letter_topic=values.pop("dead_letter_topic", cls.dead_letter_topic),
            group=values.pop("group.id", cls.group),
            options=values,
        )


@dataclass(frozen=True)
class MongoSettings:
    uri: str = field(repr=False)
    database: str = "millrace"
    collection: str = "events"


@dataclass(frozen=True)
class MilvusSettings:
    """The collections are named ``<name>_<generation>``; the plain name is an alias of the one that is served."""

    uri: str
    token: str = field(default="", repr=False)
    message_collection: str = "message_vectors"
    profile_collection: str = "profile_vectors"
    message_index: Literal["IVF_FLAT", "HNSW", "FLAT"] = "IVF_FLAT"


@dataclass(frozen=True)
class Neo4jSettings:
    uri: str
    user: str = "neo4j"
    password: str = field(default="", repr=False)
    database: str = "neo4j"


@dataclass(frozen=True)
class WarehouseSettings:
    dsn: str = field(repr=False)


@dataclass(frozen=True)
class RedisSettings:
    url: str = field(repr=False)


@dataclass(frozen=True)
class EmbedSettings:
    """``url`` ends in /v1: any server that speaks the OpenAI embeddings protocol."""

    url: str
    api_key: str = field(default="", repr=False)
    model: str = "all-MiniLM-L6-v2"
    revision: str = "0.1.0"
    dimension: int = 384

    @property
    def generation(self) -> Generation:
        return Generation(self.model, self.revision, self.dimension)


@dataclass(frozen=True)
class PipelineSettings:
    """``active_days`` None refreshes the list of every user; ``list_ttl_s`` is the time a list lives."""

    shards: int = 4
    batch_size: int = 50_000
    batch_path: str = "file:///tmp/millrace-batches"
    as_of: AsOf = "now"
    list_ttl_s: int = 900
    active_days: int | None = 30
    users_per_chunk: int = 2_000


@dataclass(frozen=True)
class Settings:
    kafka: KafkaSettings
    mongo: MongoSettings
    milvus: MilvusSettings
    neo4j: Neo4jSettings
    warehouse: WarehouseSettings
    redis: RedisSettings
    embed: EmbedSettings
    pipeline: PipelineSettings

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Raises ``ConfigurationError`` naming the first variable that is missing or wrong."""
        env = _Environment(environment)
        return cls(
            kafka=KafkaSettings(
                bootstrap=env.text("KAFKA_BOOTSTRAP"),
                topic=env.text("TOPIC", KafkaSettings.topic),
                dead_letter_topic=env.text("DEAD_LETTER_TOPIC", KafkaSettings.dead_letter_topic),
            ),
            mongo=MongoSettings(uri=env.text("MONGO_URI")),
            milvus=MilvusSettings(uri=env.text("MILVUS_URI"), token=env.text("MILVUS_TOKEN", "")),
            neo4j=Neo4jSettings(
                uri=env.text("NEO4J_URI"),
                user=env.text("NEO4J_USER", "neo4j"),
                password=env.text("NEO4J_PASSWORD", ""),
            ),
            warehouse=WarehouseSettings(dsn=env.text("WAREHOUSE_DSN")),
            redis=RedisSettings(url=env.text("REDIS_URL")),
            embed=EmbedSettings(url=env.text("EMBED_URL"), api_key=env.text("EMBED_API_KEY", "")),
            pipeline=pipeline_settings(env.values()),
        )


def pipeline_settings(values: Mapping[str, str]) -> PipelineSettings:
    """The pipeline's numbers from names without prefix (``batch_size``); absent ones take their default.

    ``list_ttl_minutes`` must be 5 to 15; ``active_days`` may be ``all``.
    """
    default = PipelineSettings()
    as_of = values.get("as_of", default.as_of)
    if as_of not in ("now", "newest_event"):
        raise ConfigurationError(f"{_named('as_of')} is {as_of!r}; it must be now or newest_event")
    active = values.get("active_days", str(default.active_days))
    return PipelineSettings(
        shards=_integer(values, "shards", default.shards, 1, 4096),
        batch_size=_integer(values, "batch_size", default.batch_size, 1, 1_000_000),
        batch_path=values.get("batch_path", default.batch_path),
        as_of="now" if as_of == "now" else "newest_event",
        list_ttl_s=60 * _integer(values, "list_ttl_minutes", default.list_ttl_s // 60, 5, 15),
        active_days=None if active == "all" else _integer(values, "active_days", 30, 1, 36_500, ", or all"),
        users_per_chunk=_integer(values, "users_per_chunk", default.users_per_chunk, 1, 100_000),
    )


def _named(name: str) -> str:
    return f"millrace_{name} ({PREFIX}{name.upper()} in the environment)"


def _integer(values: Mapping[str, str], name: str, default: int, least: int, most: int, other: str = "") -> int:
    text = values.get(name, str(default))
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise ConfigurationError(f"{_named(name)} is {text!r}; it must be a whole number from {least} to {most}{other}")
    return number


class _Environment:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def text(self, name: str, default: str | None = None) -> str:
        """What is empty is as if it were not set: that is how Compose hands on a variable without a value."""
        value = self._environment.get(PREFIX + name) or default
        if value is None:
            raise ConfigurationError(f'{PREFIX}{name} is not set. For the local stack: eval "$(python -m stack env)"')
        return value

    def values(self) -> dict[str, str]:
        return {
            name.removeprefix(PREFIX).lower(): value
            for name, value in self._environment.items()
            if name.startswith(PREFIX) and value
        }
