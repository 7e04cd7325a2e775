"""Every setting of the pipeline, by section.

Two readers produce them: ``EnvironmentSettings`` in a shell, ``dags/dag_factories/connections.py`` in an Airflow task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

from include.domain.generation import Generation
from include.errors import ConfigurationError
from include.settings_parser import PREFIX, SettingsParser, option_text

#: What recency counts from: the clock, or the newest stored event (a file of old events ends in the past).
type AsOf = Literal["now", "newest_event"]
type MessageIndex = Literal["IVF_FLAT", "HNSW", "FLAT"]

AS_OF: tuple[AsOf, ...] = ("now", "newest_event")
MESSAGE_INDEXES: tuple[MessageIndex, ...] = ("IVF_FLAT", "HNSW", "FLAT")

#: A server setting that begins so selects the adapter in memory: for dry runs and tests. What follows is its name.
MEMORY_SCHEME = "memory://"

_STACK_HINT = 'For the local stack: eval "$(python -m stack env)"'


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

        ``group.id``, ``topic`` and ``dead_letter_topic`` may be among them; every other property is an option.
        """
        values = {name: option_text(value) for name, value in properties.items()}
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
    """The collections are named ``<name>_<generation>``; the plain name is an alias of the first one."""

    uri: str
    token: str = field(default="", repr=False)
    message_collection: str = "message_vectors"
    profile_collection: str = "profile_vectors"
    message_index: MessageIndex = "IVF_FLAT"


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
    """``url`` ends in /v1: any server that speaks the OpenAI embeddings protocol.

    ``max_characters`` is how much of a text is sent, for servers that refuse a longer one; 0 sends all of it.
    """

    url: str
    api_key: str = field(default="", repr=False)
    model: str = "all-MiniLM-L6-v2"
    revision: str = "0.1.0"
    dimension: int = 384
    max_characters: int = 0

    @property
    def generation(self) -> Generation:
        # The vector of a text that is cut differs from that of the whole text.
        revision = f"{self.revision}_cut_{self.max_characters}" if self.max_characters else self.revision
        return Generation(self.model, revision, self.dimension)


@dataclass(frozen=True)
class StoreSettings:
    """The server of a store without a section of its own: what a sink from ``make new-sink`` starts with."""

    url: str = field(repr=False)
    options: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class PipelineSettings:
    """A batch has at most ``batch_size`` messages, and ``batch_bytes`` bytes of values unless one message has more.

    A shard stops when more than ``max_reject_percent`` of its last ``reject_window`` messages or more are rejected.
    ``active_days`` None refreshes the list of every user; ``list_ttl_s`` is how long a list lives, in seconds.
    A ranking is trained every ``train_every_days``, once there are ``train_min_engagements`` events with an item.
    ``keep_*_days`` is when ``maintain`` deletes what is no longer needed; 0 keeps it for ever.
    """

    shards: int = 4
    batch_size: int = 50_000
    batch_bytes: int = 128 * 2**20
    max_reject_percent: int = 5
    reject_window: int = 1_000
    batch_path: str = ""
    as_of: AsOf = "now"
    list_ttl_s: int = 900
    active_days: int | None = 30
    users_per_chunk: int = 2_000
    train_every_days: int = 7
    train_min_engagements: int = 10_000
    keep_events_days: int = 0
    keep_batches_days: int = 90
    keep_failed_days: int = 7
    keep_text_vectors_days: int = 30
    keep_dead_letters_days: int = 90

    def require_batch_path(self) -> str:
        """Where tasks exchange files. Has no default: a shared temporary folder is open to other users.

        Raises ``ConfigurationError`` if it is not set.
        """
        if not self.batch_path:
            raise ConfigurationError(
                "MILLRACE_BATCH_PATH is not set: set it to a location that all workers share and only they can read, "
                "for example file:///var/lib/millrace/batches or s3://bucket/batches"
            )
        return self.batch_path


class Settings(Protocol):
    """All sections. Reading one never needs the settings of another. Raises ``ConfigurationError``."""

    @property
    def kafka(self) -> KafkaSettings: ...
    @property
    def mongo(self) -> MongoSettings: ...
    @property
    def milvus(self) -> MilvusSettings: ...
    @property
    def neo4j(self) -> Neo4jSettings: ...
    @property
    def warehouse(self) -> WarehouseSettings: ...
    @property
    def redis(self) -> RedisSettings: ...
    @property
    def embed(self) -> EmbedSettings: ...
    @property
    def pipeline(self) -> PipelineSettings: ...
    def store(self, name: str) -> StoreSettings:
        """The server of a store without a section of its own."""


class EnvironmentSettings:
    """``Settings`` from ``MILLRACE_*`` variables; a section is read when it is first used."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._parser = SettingsParser.from_environment(environment)

    @property
    def topic(self) -> str:
        """The topic of events, which may be needed without the address of Kafka."""
        return self._parser.text("TOPIC", KafkaSettings.topic)

    @cached_property
    def kafka(self) -> KafkaSettings:
        parser = self._parser
        return KafkaSettings(
            bootstrap=parser.text("KAFKA_BOOTSTRAP", hint=_STACK_HINT),
            topic=self.topic,
            dead_letter_topic=parser.text("DEAD_LETTER_TOPIC", KafkaSettings.dead_letter_topic),
            group=parser.text("KAFKA_GROUP", KafkaSettings.group),
            options=parser.options("KAFKA_OPTIONS"),
        )

    @cached_property
    def mongo(self) -> MongoSettings:
        uri = self._parser.text("MONGO_URI", hint=_STACK_HINT)
        return MongoSettings(uri, database=self._parser.text("MONGO_DATABASE", MongoSettings.database))

    @cached_property
    def milvus(self) -> MilvusSettings:
        parser = self._parser
        return MilvusSettings(
            uri=parser.text("MILVUS_URI", hint=_STACK_HINT),
            token=parser.text("MILVUS_TOKEN", ""),
            message_index=parser.choice("MILVUS_MESSAGE_INDEX", MilvusSettings.message_index, MESSAGE_INDEXES),
        )

    @cached_property
    def neo4j(self) -> Neo4jSettings:
        parser = self._parser
        return Neo4jSettings(
            uri=parser.text("NEO4J_URI", hint=_STACK_HINT),
            user=parser.text("NEO4J_USER", Neo4jSettings.user),
            password=parser.text("NEO4J_PASSWORD", ""),
            database=parser.text("NEO4J_DATABASE", Neo4jSettings.database),
        )

    @cached_property
    def warehouse(self) -> WarehouseSettings:
        return WarehouseSettings(self._parser.text("WAREHOUSE_DSN", hint=_STACK_HINT))

    @cached_property
    def redis(self) -> RedisSettings:
        return RedisSettings(self._parser.text("REDIS_URL", hint=_STACK_HINT))

    @cached_property
    def embed(self) -> EmbedSettings:
        parser = self._parser
        return EmbedSettings(
            url=parser.text("EMBED_URL", hint=_STACK_HINT),
            api_key=parser.text("EMBED_API_KEY", ""),
            model=parser.text("EMBED_MODEL", EmbedSettings.model),
            revision=parser.text("EMBED_REVISION", EmbedSettings.revision),
            dimension=parser.integer("EMBED_DIMENSION", EmbedSettings.dimension, 1, 65_536),
            max_characters=parser.integer("EMBED_MAX_CHARACTERS", EmbedSettings.max_characters, 0, 1_000_000),
        )

    @cached_property
    def pipeline(self) -> PipelineSettings:
        return pipeline_settings(pipeline_values(self._environment))

    def store(self, name: str) -> StoreSettings:
        """From ``MILLRACE_<NAME>_URL`` and ``MILLRACE_<NAME>_OPTIONS`` (a JSON object)."""
        prefix = name.upper()
        return StoreSettings(self._parser.text(f"{prefix}_URL"), self._parser.options(f"{prefix}_OPTIONS"))


def pipeline_values(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of ``MILLRACE_*`` by lower-case names without the prefix, as ``pipeline_settings`` takes them."""
    return {n.removeprefix(PREFIX).lower(): value for n, value in environment.items() if n.startswith(PREFIX)}


def pipeline_settings(values: Mapping[str, object]) -> PipelineSettings:
    """The pipeline's numbers from names without prefix (``batch_size``); absent ones take their default.

    ``list_ttl_minutes`` must be 5 to 15; ``active_days`` may be ``all``.
    """
    default = PipelineSettings()
    parser = SettingsParser(values, lambda name: f"millrace_{name} ({PREFIX}{name.upper()} in the environment)")
    everyone = parser.text("active_days", "") == "all"
    return PipelineSettings(
        shards=parser.integer("shards", default.shards, 1, 4096),
        batch_size=parser.integer("batch_size", default.batch_size, 1, 1_000_000),
        batch_bytes=parser.integer("batch_bytes", default.batch_bytes, 2**20, 4 * 2**30),
        max_reject_percent=parser.integer("max_reject_percent", default.max_reject_percent, 0, 100),
        reject_window=parser.integer("reject_window", default.reject_window, 1, 1_000_000),
        batch_path=parser.text("batch_path", default.batch_path),
        as_of=parser.choice("as_of", default.as_of, AS_OF),
        list_ttl_s=60 * parser.integer("list_ttl_minutes", default.list_ttl_s // 60, 5, 15),
        active_days=None if everyone else parser.integer("active_days", 30, 1, 36_500, alternative="all"),
        users_per_chunk=parser.integer("users_per_chunk", default.users_per_chunk, 1, 100_000),
        train_every_days=parser.integer("train_every_days", default.train_every_days, 1, 365),
        train_min_engagements=parser.integer(
            "train_min_engagements", default.train_min_engagements, 1_000, 1_000_000_000
        ),
        keep_events_days=parser.integer("keep_events_days", default.keep_events_days, 0, 36_500),
        keep_batches_days=parser.integer("keep_batches_days", default.keep_batches_days, 0, 36_500),
        keep_failed_days=parser.integer("keep_failed_days", default.keep_failed_days, 0, 36_500),
        keep_text_vectors_days=parser.integer("keep_text_vectors_days", default.keep_text_vectors_days, 0, 36_500),
        keep_dead_letters_days=parser.integer("keep_dead_letters_days", default.keep_dead_letters_days, 0, 36_500),
    )
