"""The configuration, secrets and client variables of an installation."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from include.errors import ConfigurationError
from include.settings import EnvironmentSettings
from stack.config import LOOPBACK, PROJECT, LocalConfig, port_setting
from stack.installation import (
    DEFAULT_HEAPS,
    DEFAULT_PORTS,
    client_environment,
    config_on_free_ports,
    format_shell_lines,
    load_secrets,
    read_config,
)
from stack.servers import SERVERS, postgres

FOLDERS = {
    "MILLRACE_HOME": "home",
    "MILLRACE_JAR_CACHE": "jar_cache",
    "MILLRACE_DAGS_FOLDER": "dags_folder",
    "MILLRACE_PLUGINS_FOLDER": "plugins_folder",
}
ADDRESSES = {
    "MILLRACE_KAFKA_BOOTSTRAP": "kafka",
    "MILLRACE_MONGO_URI": "mongo",
    "MILLRACE_MILVUS_URI": "milvus",
    "MILLRACE_NEO4J_URI": "neo4j",
    "MILLRACE_WAREHOUSE_DSN": "postgres",
    "MILLRACE_REDIS_URL": "redis",
    "MILLRACE_EMBED_URL": "embed",
    "MILLRACE_READER_URL": "reader",
    "MILLRACE_AIRFLOW_URL": "airflow",
}


@pytest.fixture
def config(tmp_path: Path) -> LocalConfig:
    return replace(config_on_free_ports(tmp_path / "a home"), shards=7)


def test_defaults() -> None:
    """Without settings all files are in the project folder, and no port is the usual one of a real server."""
    config = read_config({})
    assert config.home == PROJECT / ".local"
    assert config.jar_cache == PROJECT / ".local" / "jars"
    assert (config.dags_folder, config.plugins_folder) == (PROJECT / "dags", PROJECT / "plugins")
    assert (config.shards, config.parallelism, config.postgres_user) == (4, 4, "")
    assert config.ports == DEFAULT_PORTS
    assert config.heaps == DEFAULT_HEAPS
    assert not {9092, 27017, 19530, 7687, 5432, 6379, 8080} & set(DEFAULT_PORTS.values())


def test_the_default_ports_and_heaps_are_stable() -> None:
    """Bookmarks and firewall rules rely on the numbers, wherever they are declared."""
    assert [DEFAULT_PORTS[name] for name in ("kafka", "mongo", "milvus", "neo4j")] == [19092, 17017, 19630, 17687]
    assert [DEFAULT_PORTS[name] for name in ("postgres", "redis", "embed")] == [15432, 16379, 18090]
    assert [DEFAULT_PORTS[name] for name in ("airflow", "reader")] == [18080, 18000]
    assert DEFAULT_HEAPS == {"neo4j": "512m", "kafka": "320m"}


@pytest.mark.parametrize("name", DEFAULT_PORTS)
def test_each_port_has_a_setting(name: str) -> None:
    """The setting changes its own port and no other, and clients use the new address."""
    config = read_config({f"MILLRACE_PORT_{name.upper()}": "20123"})
    assert config.ports == {**DEFAULT_PORTS, name: 20123}
    assert config.address(name) == f"{LOOPBACK}:20123"
    assert port_setting(name) == f"MILLRACE_PORT_{name.upper()}"


@pytest.mark.parametrize("name", DEFAULT_HEAPS)
def test_each_heap_has_a_setting(name: str) -> None:
    """The setting changes its own heap and no other, in lower case as Java expects it."""
    assert read_config({f"MILLRACE_HEAP_{name.upper()}": "1G"}).heaps == {**DEFAULT_HEAPS, name: "1g"}


@pytest.mark.parametrize(("setting", "attribute"), FOLDERS.items())
def test_each_folder_has_a_setting(
    setting: str, attribute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path starts at the current folder, and ``~`` is the user's home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    assert getattr(read_config({setting: "here"}), attribute) == tmp_path.resolve() / "here"
    assert getattr(read_config({setting: "~/there"}), attribute) == tmp_path.resolve() / "user" / "there"


def test_an_explicit_home_wins(tmp_path: Path) -> None:
    """The home of the command line overrides that of the environment."""
    assert read_config({"MILLRACE_HOME": "/elsewhere"}, tmp_path).home == tmp_path.resolve()


def test_other_settings() -> None:
    """The number of shards, the parallelism and PostgreSQL's user are read."""
    config = read_config({"MILLRACE_SHARDS": "64", "MILLRACE_PARALLELISM": "2", "MILLRACE_POSTGRES_USER": "somebody"})
    assert (config.shards, config.parallelism, config.postgres_user) == (64, 2, "somebody")


def test_open_ports_are_allowed_only_on_request() -> None:
    """By default a server that other machines can reach is rejected."""
    assert not read_config({}).allow_open_ports
    assert read_config({"MILLRACE_ALLOW_OPEN_PORTS": "true"}).allow_open_ports


def test_the_demo_is_inside_the_default_home() -> None:
    """Both belong to one installation; a home elsewhere is one by itself."""
    default = read_config({})
    assert postgres.installation_folders(default.demo) == [default.demo.home, default.home]
    assert postgres.installation_folders(default) == [default.home]
    elsewhere = read_config({}, Path("/elsewhere/home"))
    assert postgres.installation_folders(elsewhere) == [elsewhere.home]


def test_an_empty_setting_counts_as_unset() -> None:
    """A variable without a value, as a shell or a compose file may leave it, has its default."""
    names = [*map(port_setting, DEFAULT_PORTS), *FOLDERS, "MILLRACE_SHARDS", "MILLRACE_PARALLELISM"]
    assert read_config(dict.fromkeys([*names, "MILLRACE_HEAP_KAFKA"], "")) == read_config({})


INVALID = [
    ("MILLRACE_PORT_KAFKA", "0"),
    ("MILLRACE_PORT_KAFKA", "65536"),
    ("MILLRACE_PORT_REDIS", "six"),
    ("MILLRACE_PORT_MILVUS_ETCD", "-1"),
    ("MILLRACE_PORT_READER", "18000.0"),
    ("MILLRACE_HEAP_KAFKA", "0m"),
    ("MILLRACE_HEAP_NEO4J", "512"),
    ("MILLRACE_HEAP_NEO4J", "1g -XX:+Evil"),
    ("MILLRACE_SHARDS", "0"),
    ("MILLRACE_SHARDS", "4097"),
    ("MILLRACE_SHARDS", "4 4"),
    ("MILLRACE_PARALLELISM", "65"),
    ("MILLRACE_ALLOW_OPEN_PORTS", "maybe"),
]


@pytest.mark.parametrize(("setting", "value"), INVALID)
def test_an_invalid_value_is_reported(setting: str, value: str) -> None:
    """The error names the setting, its value and what it must look like."""
    with pytest.raises(ConfigurationError, match=rf"^{setting} is {re.escape(repr(value))}; it must \w+"):
        read_config({setting: value})


def test_a_duplicate_port_names_both_settings() -> None:
    """The error names both settings even if one has its default: either could be changed."""
    with pytest.raises(ConfigurationError) as error:
        read_config({"MILLRACE_PORT_READER": str(DEFAULT_PORTS["kafka"])})
    assert "MILLRACE_PORT_READER and MILLRACE_PORT_KAFKA are both 19092" in str(error.value)


def test_two_ports_can_be_swapped() -> None:
    """Ports are compared only after all of them were read."""
    swapped = {"MILLRACE_PORT_KAFKA": str(DEFAULT_PORTS["mongo"]), "MILLRACE_PORT_MONGO": str(DEFAULT_PORTS["kafka"])}
    ports = read_config(swapped).ports
    assert (ports["kafka"], ports["mongo"]) == (DEFAULT_PORTS["mongo"], DEFAULT_PORTS["kafka"])


def test_a_stack_on_free_ports(tmp_path: Path) -> None:
    """Every port is distinct and not ephemeral; all other settings are kept."""
    environment = {"MILLRACE_PORT_KAFKA": "19092", "MILLRACE_SHARDS": "2", "MILLRACE_HEAP_KAFKA": "1g"}
    config = config_on_free_ports(tmp_path, environment, {"MORE": "1"})
    assert set(config.ports) == set(DEFAULT_PORTS)
    assert len(set(config.ports.values())) == len(DEFAULT_PORTS)
    assert all(20_000 <= port < 32_000 for port in config.ports.values())
    assert (config.home, config.shards, config.heaps["kafka"]) == (tmp_path.resolve(), 2, "1g")
    assert config.extra_environment == {"MORE": "1"}


def test_a_stack_on_free_ports_rejects_invalid_settings(tmp_path: Path) -> None:
    """Port settings are ignored, but all other settings must be valid."""
    with pytest.raises(ConfigurationError, match="MILLRACE_SHARDS"):
        config_on_free_ports(tmp_path, {"MILLRACE_PORT_KAFKA": "none", "MILLRACE_SHARDS": "none"})


@pytest.mark.parametrize(("variable", "port"), ADDRESSES.items())
def test_each_address_has_its_own_port(config: LocalConfig, variable: str, port: str) -> None:
    """Every client variable leads to the configured port of its own server."""
    assert re.findall(r"127\.0\.0\.1:\d+", client_environment(config)[variable]) == [config.address(port)]


def test_clients_get_all_settings(config: LocalConfig) -> None:
    """The variables include every setting of a client, with this installation's shards and batch folder."""
    settings = EnvironmentSettings(client_environment(config))
    assert settings.kafka.bootstrap == config.address("kafka")
    assert settings.pipeline.shards == 7
    assert settings.pipeline.batch_path == config.batches.as_uri()


def test_clients_get_their_secrets(config: LocalConfig) -> None:
    """Secrets are generated if missing, stay the same, and appear in the variable of their own server."""
    environment = client_environment(config)
    secrets = load_secrets(config)
    assert client_environment(config) == environment
    assert urlsplit(environment["MILLRACE_REDIS_URL"]).password == secrets["redis"]
    assert urlsplit(environment["MILLRACE_WAREHOUSE_DSN"]).password == secrets["postgres_warehouse"]
    assert environment["MILLRACE_NEO4J_PASSWORD"] == secrets["neo4j"]
    assert environment["MILLRACE_EMBED_API_KEY"] == secrets["embed_api_key"]
    assert environment["MILLRACE_AIRFLOW_PASSWORD"] == secrets["airflow_admin"]


def test_clients_do_not_get_internal_secrets(config: LocalConfig) -> None:
    """PostgreSQL's administrator password and Airflow's own keys are in no client variable."""
    values = " ".join(client_environment(config).values())
    internal = ("postgres_admin", "postgres_airflow", "airflow_fernet_key", "airflow_jwt_secret", "airflow_api_secret")
    secrets = load_secrets(config)
    assert not [name for name in internal if secrets[name] in values]


def test_no_two_servers_set_the_same_variable(config: LocalConfig) -> None:
    """One server's variable would silently replace the other's."""
    secrets = load_secrets(config)
    names = [*config.client_variables]
    names += [name for server in SERVERS for name in server.client_variables(config, secrets)]
    assert len(set(names)) == len(names)
    assert all(name.startswith("MILLRACE_") for name in names)


def test_a_shell_reads_the_lines(config: LocalConfig) -> None:
    """``eval`` in a shell preserves every value, whatever characters it contains."""
    odd = {"MILLRACE_ODD": "a 'b' \"c\" $HOME `id` \\ ; é\nnext"}
    lines = format_shell_lines({**client_environment(config), **odd})
    command = ["bash", "-c", 'eval "$1"; env -0', "bash", lines]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]})
    variables = dict(line.split("=", 1) for line in done.stdout.split("\0") if line.startswith("MILLRACE_"))
    assert variables == {**client_environment(config), **odd}
