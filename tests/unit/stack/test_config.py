"""Where a local stack lives and listens: one setting each, and a wrong one is named."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from include.errors import ConfigurationError
from stack.config import (
    DEFAULT_HEAPS,
    DEFAULT_PORTS,
    LOOPBACK,
    PROJECT,
    LocalConfig,
    free_ports,
    is_free,
    port_setting,
)

FOLDERS = {
    "MILLRACE_HOME": "home",
    "MILLRACE_JAR_CACHE": "jar_cache",
    "MILLRACE_DAGS_FOLDER": "dags_folder",
    "MILLRACE_PLUGINS_FOLDER": "plugins_folder",
}


def test_defaults() -> None:
    """Without a setting all lies in the project's folder, and no port is one that a real server would have."""
    config = LocalConfig.from_env({})
    assert config.home == PROJECT / ".local"
    assert config.jar_cache == PROJECT / ".local" / "jars"
    assert (config.dags_folder, config.plugins_folder) == (PROJECT / "dags", PROJECT / "plugins")
    assert (config.shards, config.parallelism, config.postgres_user) == (4, 4, "")
    assert config.ports == DEFAULT_PORTS
    assert config.heaps == DEFAULT_HEAPS
    assert len(set(DEFAULT_PORTS.values())) == len(DEFAULT_PORTS)
    assert not {9092, 27017, 19530, 7687, 5432, 6379, 8080} & set(DEFAULT_PORTS.values())


@pytest.mark.parametrize("name", DEFAULT_PORTS)
def test_each_port_is_a_setting(name: str) -> None:
    """It moves its own port and no other, and clients are sent there."""
    config = LocalConfig.from_env({f"MILLRACE_PORT_{name.upper()}": "20123"})
    assert config.ports == {**DEFAULT_PORTS, name: 20123}
    assert config.address(name) == f"{LOOPBACK}:20123"
    assert port_setting(name) == f"MILLRACE_PORT_{name.upper()}"


@pytest.mark.parametrize("name", DEFAULT_HEAPS)
def test_each_heap_is_a_setting(name: str) -> None:
    """It changes its own heap and no other, in small letters as Java takes it."""
    assert LocalConfig.from_env({f"MILLRACE_HEAP_{name.upper()}": "1G"}).heaps == {**DEFAULT_HEAPS, name: "1g"}


@pytest.mark.parametrize(("setting", "attribute"), FOLDERS.items())
def test_each_folder_is_a_setting(
    setting: str, attribute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path counts from where one stands, ``~`` is the user's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    assert getattr(LocalConfig.from_env({setting: "here"}), attribute) == tmp_path.resolve() / "here"
    assert getattr(LocalConfig.from_env({setting: "~/there"}), attribute) == tmp_path.resolve() / "user" / "there"


def test_a_home_that_is_given_wins(tmp_path: Path) -> None:
    """The command line's home goes before the environment's."""
    assert LocalConfig.from_env({"MILLRACE_HOME": "/elsewhere"}, tmp_path).home == tmp_path.resolve()


def test_numbers_and_names_are_settings() -> None:
    """Shards, tasks at a time and PostgreSQL's user are read."""
    config = LocalConfig.from_env(
        {"MILLRACE_SHARDS": "64", "MILLRACE_PARALLELISM": "2", "MILLRACE_POSTGRES_USER": "somebody"}
    )
    assert (config.shards, config.parallelism, config.postgres_user) == (64, 2, "somebody")


def test_an_empty_setting_is_none() -> None:
    """A variable that is set to nothing, as a shell or a compose file leaves it, counts as not set."""
    names = [*map(port_setting, DEFAULT_PORTS), *FOLDERS, "MILLRACE_SHARDS", "MILLRACE_PARALLELISM"]
    assert LocalConfig.from_env(dict.fromkeys([*names, "MILLRACE_HEAP_KAFKA"], "")) == LocalConfig.from_env({})


WRONG = [
    ("MILLRACE_PORT_KAFKA", "0"),
    ("MILLRACE_PORT_KAFKA", "65536"),
    ("MILLRACE_PORT_REDIS", "six"),
    ("MILLRACE_PORT_MILVUS_ETCD", "-1"),
    ("MILLRACE_PORT_READER", "18000.0"),
    ("MILLRACE_HEAP_KAFKA", "0m"),
    ("MILLRACE_HEAP_MONGO", "512"),
    ("MILLRACE_HEAP_NEO4J", "1g -XX:+Evil"),
    ("MILLRACE_SHARDS", "0"),
    ("MILLRACE_SHARDS", "4097"),
    ("MILLRACE_SHARDS", "4 "),
    ("MILLRACE_PARALLELISM", "65"),
]


@pytest.mark.parametrize(("setting", "value"), WRONG)
def test_a_wrong_value_is_named(setting: str, value: str) -> None:
    """The message has the setting, the value it has, and what it must look like."""
    with pytest.raises(ConfigurationError, match=rf"^{setting} is {re.escape(repr(value))}; it must \w+"):
        LocalConfig.from_env({setting: value})


def test_a_port_given_twice_names_both_settings() -> None:
    """Also when one of the two is a default: either setting may be the one to change."""
    with pytest.raises(ConfigurationError) as caught:
        LocalConfig.from_env({"MILLRACE_PORT_READER": str(DEFAULT_PORTS["kafka"])})
    assert "MILLRACE_PORT_READER and MILLRACE_PORT_KAFKA are both 19092" in str(caught.value)


def test_two_ports_can_be_exchanged() -> None:
    """Ports are compared once all are read."""
    swapped = {"MILLRACE_PORT_KAFKA": str(DEFAULT_PORTS["mongo"]), "MILLRACE_PORT_MONGO": str(DEFAULT_PORTS["kafka"])}
    ports = LocalConfig.from_env(swapped).ports
    assert (ports["kafka"], ports["mongo"]) == (DEFAULT_PORTS["mongo"], DEFAULT_PORTS["kafka"])


def test_free_ports_for_a_stack_beside_others(tmp_path: Path) -> None:
    """Every port gets its own, below those that outgoing connections take; what else is set stays."""
    environment = {"MILLRACE_PORT_KAFKA": "19092", "MILLRACE_SHARDS": "2", "MILLRACE_HEAP_KAFKA": "1g"}
    config = LocalConfig.with_free_ports(tmp_path, environment, {"MORE": "1"})
    assert set(config.ports) == set(DEFAULT_PORTS)
    assert len(set(config.ports.values())) == len(DEFAULT_PORTS)
    assert all(20_000 <= port < 32_000 for port in config.ports.values())
    assert (config.home, config.shards, config.heaps["kafka"]) == (tmp_path.resolve(), 2, "1g")
    assert config.extra_environment == {"MORE": "1"}


def test_a_wrong_setting_is_refused_beside_others_too(tmp_path: Path) -> None:
    """Free ports replace those that are set, but the other settings still have to be right."""
    with pytest.raises(ConfigurationError, match="MILLRACE_SHARDS"):
        LocalConfig.with_free_ports(tmp_path, {"MILLRACE_PORT_KAFKA": "none", "MILLRACE_SHARDS": "none"})


def test_a_port_in_use_is_not_free() -> None:
    """While somebody listens the port is taken, and nobody is given it."""
    (port,) = free_ports(1)
    with socket.create_server((LOOPBACK, port)):
        assert not is_free(port)
    assert is_free(port)


def test_more_free_ports_than_there_are() -> None:
    """When no block of that size can be had the message says so, and what to do."""
    with pytest.raises(ConfigurationError, match=r"no 12000 free ports in a row .*: stop some servers"):
        free_ports(12_000)


def test_everything_of_a_stack_lies_in_its_home(tmp_path: Path) -> None:
    """Data, logs, records and batches: whoever deletes the home deletes the stack."""
    config = LocalConfig(home=tmp_path)
    assert config.log("kafka") == config.logs / "kafka.log"
    assert config.batches == config.data("batches")
    for folder in (config.data("kafka"), config.run, config.logs, config.batches):
        assert folder.is_relative_to(tmp_path)
