"""The pages match the code: fields, settings, connections, keys and stores."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from include.bootstrap import SINKS
from include.domain.event import decode
from include.domain.generation import Generation
from include.domain.ranking import KIND_WEIGHTS
from include.domain.reasons import Reason
from include.domain.recommendation_list import (
    CURRENT_KEY,
    MAX_ITEMS,
    RecommendationList,
    RecommendedItem,
    list_key,
    pack,
    popular_key,
)
from include.serving.rendering import build_body, render_list
from include.serving.settings import ReaderSettings
from include.settings import EmbedSettings, EnvironmentSettings, PipelineSettings
from stack.installation import DEFAULT_HEAPS, DEFAULT_PORTS
from tests.pages import DOCS, PROJECT, fenced_blocks, page_text, section, table_rows

EVENTS = DOCS / "events.md"
HTTP_API = DOCS / "http-api.md"
REDIS = DOCS / "redis.md"
CONFIGURATION = DOCS / "configuration.md"
CONNECTIONS = DOCS / "connections.md"


def dotenv(block: str) -> dict[str, str]:
    """The variables in a block of ``NAME=value`` lines."""
    return dict(line.split("=", 1) for line in block.splitlines())


def test_every_reason_is_explained() -> None:
    """The table of dead letters lists every reason and nothing else."""
    table = section(EVENTS, "Dead letters").partition("```")[0]
    assert set(re.findall(r"`([a-z0-9_]+)`", table)) == {reason.value for reason in Reason}


def test_the_example_event_is_valid() -> None:
    """The example is a valid event and uses every optional field except version."""
    (example,) = fenced_blocks(EVENTS, "json")
    event = decode(json.dumps(json.loads(example)).encode())
    assert event.extra is None
    assert None not in (event.text, event.item_id, event.campaign_id, event.value)


def test_every_kind_with_a_weight_is_listed() -> None:
    """The pages for producers and on ranking list every kind that has its own weight."""
    for kind in KIND_WEIGHTS:
        assert f"`{kind}`" in page_text(EVENTS)
        assert f"`{kind}`" in page_text(DOCS / "recommendations.md")


def test_the_example_response_has_the_readers_fields() -> None:
    """The response on the page has the fields that the reader sends, in the same order."""
    (example,) = fenced_blocks(HTTP_API, "json")
    shown = json.loads(example)
    item = RecommendedItem("item", 1.0, "text", "popular", "popular lately")
    packed = pack(RecommendationList(0, "popular", [item]))
    sent = json.loads(build_body("u", render_list(packed, 10), partial=False))
    assert list(shown) == list(sent)
    for shown_item in shown["items"]:
        assert list(shown_item) == list(sent["items"][0])
    assert f"`limit` is 1 to {MAX_ITEMS}" in page_text(HTTP_API)


def test_the_redis_keys_are_the_real_ones() -> None:
    """The page shows the real names of the generation and the keys."""
    text = page_text(REDIS)
    generation = EmbedSettings(url="").generation.name
    assert f"`{generation}`" in text
    assert f"`{list_key('{generation}', '{user_id}').decode()}`" in text
    assert f"`{popular_key('{generation}').decode()}`" in text
    assert f"`{CURRENT_KEY.decode()}`" in text
    assert Generation("a", "b", 1).name == "a_b_1"


def test_every_setting_of_the_pipeline_is_listed() -> None:
    """The table has the variable and the default of each of the pipeline's settings."""
    default = PipelineSettings()
    rows = {
        "SHARDS": str(default.shards),
        "BATCH_PATH": "required",
        "BATCH_SIZE": str(default.batch_size),
        "BATCH_BYTES": str(default.batch_bytes),
        "MAX_REJECT_PERCENT": str(default.max_reject_percent),
        "REJECT_WINDOW": str(default.reject_window),
        "AS_OF": f"`{default.as_of}`",
        "LIST_TTL_MINUTES": str(default.list_ttl_s // 60),
        "ACTIVE_DAYS": str(default.active_days),
        "USERS_PER_CHUNK": str(default.users_per_chunk),
        "TRAIN_EVERY_DAYS": str(default.train_every_days),
        "TRAIN_MIN_ENGAGEMENTS": str(default.train_min_engagements),
        "KEEP_EVENTS_DAYS": str(default.keep_events_days),
        "KEEP_BATCHES_DAYS": str(default.keep_batches_days),
        "KEEP_FAILED_DAYS": str(default.keep_failed_days),
        "KEEP_TEXT_VECTORS_DAYS": str(default.keep_text_vectors_days),
        "KEEP_DEAD_LETTERS_DAYS": str(default.keep_dead_letters_days),
    }
    text = page_text(CONFIGURATION)
    for name, value in rows.items():
        assert re.search(rf"^\| `MILLRACE_{name}` \| [^|]* \| {re.escape(value)} \|", text, re.MULTILINE), name


@pytest.mark.parametrize(
    ("source", "prefix", "page"),
    [
        ("include/settings.py", "MILLRACE_", CONNECTIONS),
        ("include/embedding_server/settings.py", "MILLRACE_EMBED_", CONFIGURATION),
    ],
)
def test_every_variable_outside_airflow_is_listed(source: str, prefix: str, page: Path) -> None:
    """Each variable that a process reads is on the page that explains how to set it."""
    code = (PROJECT / source).read_text(encoding="utf-8")
    names = re.findall(r'parser\.\w+\(\s*"([A-Z][A-Z0-9_]*)"', code)
    assert len(names) > 5
    for name in names:
        assert f"`{prefix}{name}`" in page_text(page), prefix + name


def test_every_setting_of_the_reader_is_listed() -> None:
    """The page lists the variable of each of the reader's settings."""
    text = section(CONFIGURATION, "The reader")
    for setting in fields(ReaderSettings):
        name = "MILLRACE_REDIS_URL" if setting.name == "redis_url" else f"MILLRACE_READER_{setting.name.upper()}"
        assert f"`{name}`" in text


def test_every_variable_and_connection_of_airflow_is_listed() -> None:
    """The pages list every Airflow variable and connection that the DAGs read."""
    code = (PROJECT / "dags" / "dag_factories" / "connections.py").read_text(encoding="utf-8")
    variables = re.search(r"^_VARIABLES = \(([^)]*)\)", code, re.MULTILINE)
    assert variables
    for name in re.findall(r'"([a-z_]+)"', variables[1]):
        assert f"`millrace_{name}`" in page_text(CONFIGURATION)
    connections = re.findall(r'^[A-Z0-9]+ = "([a-z0-9]+_default)"$', code, re.MULTILINE)
    assert len(connections) == 7
    dry_run = dotenv(fenced_blocks(DOCS / "dry-run.md", "dotenv")[0])
    for conn_id in connections:
        assert f"| `{conn_id}` |" in page_text(CONNECTIONS)
        assert f"AIRFLOW_CONN_{conn_id.upper()}=" in page_text(CONNECTIONS)
        assert dry_run[f"AIRFLOW_CONN_{conn_id.upper()}"].startswith("memory://")


def test_the_example_connections_are_json() -> None:
    """Every example value of AIRFLOW_CONN_... is a complete connection in JSON."""
    (block,) = fenced_blocks(CONNECTIONS, "text")
    for value in dotenv(block).values():
        assert json.loads(value)["conn_type"]


def test_the_example_variables_are_accepted() -> None:
    """The example for processes outside Airflow has the servers and options of the one for Airflow."""
    (block,) = fenced_blocks(CONNECTIONS, "dotenv")
    settings = EnvironmentSettings(dotenv(block))
    inside = json.loads(dotenv(fenced_blocks(CONNECTIONS, "text")[0])["AIRFLOW_CONN_KAFKA_DEFAULT"])["extra"]
    assert settings.kafka.options == {name: inside[name] for name in inside if name.startswith(("security.", "sasl."))}
    assert settings.kafka.bootstrap == inside["bootstrap.servers"]
    assert "tls=true" in settings.mongo.uri
    assert settings.milvus.uri.startswith("https://")
    assert settings.neo4j.uri.startswith("neo4j+s://")
    assert "sslmode=verify-full" in settings.warehouse.dsn
    assert settings.redis.url.startswith("rediss://")
    assert settings.embed.url.startswith("https://")


def test_every_port_and_heap_is_listed() -> None:
    """The stack accepts every name on the page."""
    text = section(CONFIGURATION, "The local stack")
    for name in ("kafka", "mongo", "milvus", "neo4j", "postgres", "redis", "embed", "airflow", "reader"):
        assert name in DEFAULT_PORTS
        assert f"`{name.upper()}`" in text
    for name in DEFAULT_HEAPS:
        assert f"`{name.upper()}`" in text


def test_the_table_of_stores_is_the_registry() -> None:
    """The table has exactly one row per sink, with its contents, its connection, and what it needs and waits for."""
    rows = [[cell.replace("`", "") for cell in row] for row in table_rows(page_text(DOCS / "stores.md"))]
    assert sorted(rows) == sorted(
        [
            f"{name} ({spec.title})",
            spec.content,
            spec.connection,
            spec.needs or "any event",
            "embed" if spec.needs_vectors else "stage",
        ]
        for name, spec in SINKS.items()
    )


def test_the_folders_exist() -> None:
    """Every path in the table exists."""
    for first, *_ in table_rows(page_text(DOCS / "layout.md")):
        folder = Path()
        for path in re.findall(r"`([^`]+)`", first):
            # Siblings are listed without the parent folder that they share with the first one.
            sibling = PROJECT / folder.parent / path
            assert (PROJECT / path).exists() or sibling.exists(), path
            folder = Path(path) if (PROJECT / path).exists() else folder
