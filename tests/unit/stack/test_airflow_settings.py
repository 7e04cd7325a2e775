"""``airflow_settings.yaml`` merged with the ports and secrets of an installation."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from include.errors import ConfigurationError
from include.settings import pipeline_settings
from stack.airflow_settings import FILE, build_seeds
from stack.config import LOOPBACK, LocalConfig
from stack.credentials import Secrets
from stack.installation import config_on_free_ports, load_secrets
from stack.servers import SERVERS

PORTS = {
    "mongo_default": "mongo",
    "milvus_default": "milvus",
    "neo4j_default": "neo4j",
    "warehouse_default": "postgres",
    "redis_default": "redis",
    "embed_default": "embed",
}
PASSWORDS = {
    "neo4j_default": "neo4j",
    "warehouse_default": "postgres_warehouse",
    "redis_default": "redis",
    "embed_default": "embed_api_key",
}


@pytest.fixture
def config(tmp_path: Path) -> LocalConfig:
    return config_on_free_ports(tmp_path)


@pytest.fixture
def secrets(config: LocalConfig) -> Secrets:
    return load_secrets(config)


@pytest.fixture
def seeds(config: LocalConfig, secrets: Secrets) -> dict[str, Any]:
    """The seeds of the project's file in this installation."""
    overrides: dict[str, Mapping[str, Any]] = {}
    for server in SERVERS:
        overrides.update(server.connections(config, secrets))
    return build_seeds(overrides)


@pytest.fixture
def connections(seeds: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The connections of the project's file by name."""
    return {entry["conn_id"]: entry for entry in seeds["connections"]}


def read(folder: Path, text: str) -> dict[str, Any]:
    """The seeds of another file, without an installation."""
    file = folder / "airflow_settings.yaml"
    file.write_text(text, encoding="utf-8")
    return build_seeds({}, file)


def test_the_file_contains_no_passwords() -> None:
    """The file is public, so each installation generates its own secrets."""
    connections = yaml.safe_load(FILE.read_text(encoding="utf-8"))["airflow"]["connections"]
    keys = [key for entry in connections for key in (*entry, *entry.get("conn_extra", {}))]
    assert "conn_id" in keys
    assert not [key for key in keys if re.search("password|secret|token|key", key)]


def test_every_connection_leads_to_this_installation(
    config: LocalConfig, connections: dict[str, dict[str, Any]]
) -> None:
    """The host and port of every connection are replaced by those of its own server."""
    assert set(connections) == {"kafka_default", *PORTS}
    for name, port in PORTS.items():
        assert (connections[name]["host"], connections[name]["port"]) == (LOOPBACK, config.ports[port])
    assert connections["kafka_default"]["extra"]["bootstrap.servers"] == config.address("kafka")


def test_connections_get_their_secrets(secrets: Secrets, connections: dict[str, dict[str, Any]]) -> None:
    """Each connection has the secret of its own server, and none if the server has no login."""
    expected = {name: secrets[secret] for name, secret in PASSWORDS.items()}
    assert {name: entry["password"] for name, entry in connections.items() if "password" in entry} == expected


def test_other_fields_come_from_the_file(connections: dict[str, dict[str, Any]]) -> None:
    """Users, databases and options are those of the file."""
    assert connections["kafka_default"]["extra"]["group.id"] == "millrace"
    assert connections["mongo_default"]["schema"] == "millrace"
    assert (connections["warehouse_default"]["login"], connections["warehouse_default"]["schema"]) == (
        "warehouse",
        "warehouse",
    )
    assert connections["embed_default"]["conn_type"] == "http"


def test_the_pools_exist(seeds: dict[str, Any]) -> None:
    """Tasks in a missing pool would never run."""
    assert {pool["name"]: pool["slots"] for pool in seeds["pools"]} == {"gpu_embed": 2, "replay": 1}
    assert all(pool["description"] for pool in seeds["pools"])


def test_variables_are_pipeline_settings(seeds: dict[str, Any]) -> None:
    """Tasks accept the name and value of every variable; all values are strings, as Airflow stores them."""
    variables = seeds["variables"]
    assert variables
    assert all(isinstance(value, str) for value in variables.values())
    settings = pipeline_settings({name.removeprefix("millrace_"): value for name, value in variables.items()})
    assert settings.batch_size == int(variables["millrace_batch_size"])
    assert settings.list_ttl_s == 60 * int(variables["millrace_list_ttl_minutes"])


def test_seeds_are_json(seeds: dict[str, Any]) -> None:
    """They are passed to a process with Airflow as a file."""
    assert json.loads(json.dumps(seeds)) == seeds


def test_a_connection_to_another_server(tmp_path: Path) -> None:
    """A connection to a server outside the stack is used as it is, without empty fields."""
    text = "airflow: {connections: [{conn_id: mine, conn_type: http, conn_host: there, conn_port: 81, conn_login: }]}"
    (connection,) = read(tmp_path, text)["connections"]
    assert connection == {"conn_id": "mine", "conn_type": "http", "host": "there", "port": 81, "extra": {}}


def test_a_pool_without_slots_is_skipped(tmp_path: Path) -> None:
    """The Astro CLI does the same."""
    text = "airflow: {pools: [{pool_name: empty, pool_slot: 0}, {pool_name: some, pool_slot: 3}, {pool_name: unset}]}"
    assert read(tmp_path, text)["pools"] == [{"name": "some", "slots": 3, "description": ""}]


def test_sections_may_be_empty(tmp_path: Path) -> None:
    """A missing section, or one without entries, is not an error."""
    empty: dict[str, Any] = {"connections": [], "pools": [], "variables": {}}
    assert read(tmp_path, "airflow: {connections: , pools: , variables: }") == empty
    assert read(tmp_path, "airflow: {}") == empty


@pytest.mark.parametrize("text", ["", "connections: []", "[]", "airflow: [", "airflow: text"])
def test_an_invalid_file_is_reported(tmp_path: Path, text: str) -> None:
    """A file that is not YAML, or has another structure, is an error that names the file."""
    with pytest.raises(ConfigurationError, match=re.escape(str(tmp_path / FILE.name))):
        read(tmp_path, text)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    """The message includes the path, because the user may have meant another one."""
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml cannot be read"):
        build_seeds({}, tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("section", "entry", "missing"),
    [
        ("connections", "{conn_type: http}", "conn_id"),
        ("connections", "{conn_id: mine}", "conn_type"),
        ("connections", "mine", "conn_id"),
        ("connections", "{conn_id: mine, conn_type: http, conn_extra: text}", "conn_extra"),
        ("pools", "{pool_slot: 2}", "pool_name"),
        ("variables", "{variable_value: 2}", "variable_name"),
        ("variables", "{variable_name: millrace_as_of}", "variable_value"),
    ],
)
def test_a_missing_field_is_reported(tmp_path: Path, section: str, entry: str, missing: str) -> None:
    """A mistake in the file is an error that names the field, not a traceback."""
    with pytest.raises(ConfigurationError, match=rf"airflow_settings\.yaml.*{missing}"):
        read(tmp_path, f"airflow: {{{section}: [{entry}]}}")


@pytest.mark.parametrize("section", ["connections", "pools", "variables"])
@pytest.mark.parametrize("content", ["5", "text", "{a: b}"])
def test_a_section_must_be_a_list(tmp_path: Path, section: str, content: str) -> None:
    """A missing dash is an error that names the section."""
    with pytest.raises(ConfigurationError, match=rf"airflow_settings\.yaml: {section} must be a list"):
        read(tmp_path, f"airflow: {{{section}: {content}}}")


def test_a_file_in_another_encoding_is_reported(tmp_path: Path) -> None:
    """Bytes that are not valid UTF-8 are an error that names the file, like any other damage."""
    file = tmp_path / "other.yaml"
    file.write_bytes(b"airflow: {variables: [{variable_name: a, variable_value: \xe9}]}")
    with pytest.raises(ConfigurationError, match=r"other\.yaml cannot be read"):
        build_seeds({}, file)
