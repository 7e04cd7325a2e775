"""``airflow_settings.yaml`` with this installation's ports and secrets over it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from include.errors import ConfigurationError
from include.settings import pipeline_settings
from stack.airflow_settings import FILE, seeds
from stack.config import LOOPBACK, LocalConfig
from stack.credentials import Secrets, load_or_create

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
    return LocalConfig.with_free_ports(tmp_path)


@pytest.fixture
def secrets(config: LocalConfig) -> Secrets:
    return load_or_create(config.home)


@pytest.fixture
def connections(config: LocalConfig, secrets: Secrets) -> dict[str, dict[str, Any]]:
    """Those of the project's file, by their names."""
    return {entry["conn_id"]: entry for entry in seeds(config, secrets)["connections"]}


def read(config: LocalConfig, secrets: Secrets, text: str) -> dict[str, Any]:
    """The seeds of another file."""
    file = config.home / "airflow_settings.yaml"
    file.write_text(text, encoding="utf-8")
    return seeds(config, secrets, file)


def test_the_file_holds_no_password() -> None:
    """It is in the repository: what is secret is made at each installation."""
    listed = yaml.safe_load(FILE.read_text(encoding="utf-8"))["airflow"]["connections"]
    keys = [key for entry in listed for key in (*entry, *entry.get("conn_extra", {}))]
    assert "conn_id" in keys
    assert not [key for key in keys if re.search("password|secret|token|key", key)]


def test_every_connection_leads_to_this_installation(
    config: LocalConfig, connections: dict[str, dict[str, Any]]
) -> None:
    """Host and port of the file are replaced, each by the port of its own server; no connection is left out."""
    assert set(connections) == {"kafka_default", *PORTS}
    for name, port in PORTS.items():
        assert (connections[name]["host"], connections[name]["port"]) == (LOOPBACK, config.ports[port])
    assert connections["kafka_default"]["extra"]["bootstrap.servers"] == config.address("kafka")


def test_secrets_are_put_over(secrets: Secrets, connections: dict[str, dict[str, Any]]) -> None:
    """Each connection has the secret of its own server, and a server without a login has none."""
    expected = {name: getattr(secrets, secret) for name, secret in PASSWORDS.items()}
    assert {name: entry["password"] for name, entry in connections.items() if "password" in entry} == expected


def test_what_the_file_says_stays(connections: dict[str, dict[str, Any]]) -> None:
    """Users, databases and options come from the file; only what this installation made is put over it."""
    assert connections["kafka_default"]["extra"]["group.id"] == "millrace"
    assert connections["mongo_default"]["schema"] == "millrace"
    assert connections["mongo_default"]["extra"] == {"retryWrites": "false"}
    assert (connections["warehouse_default"]["login"], connections["warehouse_default"]["schema"]) == (
        "warehouse",
        "warehouse",
    )
    assert connections["embed_default"]["conn_type"] == "http"


def test_the_pool_of_the_embedder_is_there(config: LocalConfig, secrets: Secrets) -> None:
    """Tasks of a pool that does not exist never run."""
    (pool,) = seeds(config, secrets)["pools"]
    assert (pool["name"], pool["slots"]) == ("gpu_embed", 2)
    assert pool["description"]


def test_variables_are_settings_of_the_pipeline(config: LocalConfig, secrets: Secrets) -> None:
    """Each has the name and a value that tasks take; all are text, as Airflow keeps them."""
    variables = seeds(config, secrets)["variables"]
    assert variables
    assert all(isinstance(value, str) for value in variables.values())
    taken = pipeline_settings({name.removeprefix("millrace_"): value for name, value in variables.items()})
    assert taken.batch_size == int(variables["millrace_batch_size"])
    assert taken.list_ttl_s == 60 * int(variables["millrace_list_ttl_minutes"])


def test_seeds_are_json(config: LocalConfig, secrets: Secrets) -> None:
    """They are handed to a process of Airflow as a file."""
    made = seeds(config, secrets)
    assert json.loads(json.dumps(made)) == made


def test_a_connection_of_ones_own(config: LocalConfig, secrets: Secrets) -> None:
    """What is no server of ours is taken as it stands; a field without a value is absent."""
    text = "airflow: {connections: [{conn_id: mine, conn_type: http, conn_host: there, conn_port: 81, conn_login: }]}"
    (connection,) = read(config, secrets, text)["connections"]
    assert connection == {"conn_id": "mine", "conn_type": "http", "host": "there", "port": 81, "extra": {}}


def test_a_pool_without_slots_is_passed_over(config: LocalConfig, secrets: Secrets) -> None:
    """As the Astro CLI does."""
    text = "airflow: {pools: [{pool_name: empty, pool_slot: 0}, {pool_name: some, pool_slot: 3}, {pool_name: unset}]}"
    assert read(config, secrets, text)["pools"] == [{"name": "some", "slots": 3, "description": ""}]


def test_sections_may_be_empty(config: LocalConfig, secrets: Secrets) -> None:
    """A section without entries, or none at all, is no error."""
    nothing: dict[str, Any] = {"connections": [], "pools": [], "variables": {}}
    assert read(config, secrets, "airflow: {connections: , pools: , variables: }") == nothing
    assert read(config, secrets, "airflow: {}") == nothing


@pytest.mark.parametrize("text", ["", "connections: []", "[]", "airflow: [", "airflow: text"])
def test_another_file_is_named(config: LocalConfig, secrets: Secrets, text: str) -> None:
    """What is no YAML, or has another shape, is an error with the file's name."""
    with pytest.raises(ConfigurationError, match=re.escape(str(config.home / FILE.name))):
        read(config, secrets, text)


def test_a_file_that_is_not_there_is_named(config: LocalConfig, secrets: Secrets) -> None:
    """With its path, since another one can be meant."""
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml cannot be read"):
        seeds(config, secrets, config.home / "nowhere.yaml")


@pytest.mark.parametrize(
    ("section", "entry", "lacking"),
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
def test_an_entry_that_lacks_a_field_is_named(
    config: LocalConfig, secrets: Secrets, section: str, entry: str, lacking: str
) -> None:
    """A slip in the file is an error that names the field, not a traceback."""
    with pytest.raises(ConfigurationError, match=rf"airflow_settings\.yaml.*{lacking}"):
        read(config, secrets, f"airflow: {{{section}: [{entry}]}}")


@pytest.mark.parametrize("section", ["connections", "pools", "variables"])
@pytest.mark.parametrize("content", ["5", "text", "{a: b}"])
def test_a_section_that_is_no_list_is_named(config: LocalConfig, secrets: Secrets, section: str, content: str) -> None:
    """A forgotten dash is an error that names the section."""
    with pytest.raises(ConfigurationError, match=rf"airflow_settings\.yaml: {section} must be a list"):
        read(config, secrets, f"airflow: {{{section}: {content}}}")


def test_a_file_of_another_encoding_is_named(config: LocalConfig, secrets: Secrets) -> None:
    """Bytes that are no UTF-8 are an error with the file's name, as any other damage."""
    file = config.home / "other.yaml"
    file.write_bytes(b"airflow: {variables: [{variable_name: a, variable_value: \xe9}]}")
    with pytest.raises(ConfigurationError, match=r"other\.yaml cannot be read"):
        seeds(config, secrets, file)
