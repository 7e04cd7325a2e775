"""The configuration that is written for each server: its ports, loopback only, and no exposed secrets."""

from __future__ import annotations

import json
import os
import pwd
import re
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from secantus.config import load_config

from include.errors import ConfigurationError
from stack import jars, java
from stack.config import LOOPBACK, PROJECT
from stack.installation import build_context, config_on_free_ports, read_config
from stack.server import Account, Context
from stack.servers import SERVERS, kafka, milvus, mongo, neo4j, postgres, redis

#: Servers that write configuration files without running a program.
CONFIGURED = (*kafka.SERVERS, *milvus.SERVERS, *mongo.SERVERS, *neo4j.SERVERS, *redis.SERVERS)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """Every server is prepared, with empty files as jars and engine, and Kafka's store already formatted."""
    folder = tmp_path_factory.mktemp("servers")
    heaps = {"kafka": "111m", "neo4j": "333m"}
    config = replace(config_on_free_ports(folder / "José Ñ"), jar_cache=folder / "jars", heaps=heaps, shards=7)
    for jar in jars.read_lock():
        (config.jar_cache / jar.file).parent.mkdir(parents=True, exist_ok=True)
        (config.jar_cache / jar.file).touch()
    milvus.engine_folder(config).mkdir()
    (config.data("kafka") / "logs").mkdir(parents=True)
    (config.data("kafka") / "logs" / "meta.properties").touch()
    context = build_context(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(milvus, "_FIXED_FOLDER", folder / "milvus")
        for server in CONFIGURED:
            server.prepare(context)
    return context


def configuration_files(context: Context) -> Iterator[tuple[Path, str]]:
    """Every configuration file with its text."""
    for path in sorted(context.config.run.rglob("*")):
        if path.is_file():
            yield path, path.read_text(encoding="utf-8")


def properties(context: Context, name: str) -> dict[str, str]:
    """The ``name=value`` or ``name value`` lines of a configuration file."""
    lines = (context.config.run / name).read_text(encoding="utf-8").splitlines()
    return {match[1]: match[2] for line in lines if (match := re.match(r"([^= ]+)[= ](.*)", line))}


def test_only_the_owner_can_read_the_configuration(context: Context) -> None:
    """Some files contain secrets, so all of them are private."""
    assert len(list(configuration_files(context))) >= len(CONFIGURED)
    assert [path for path, _ in configuration_files(context) if stat.S_IMODE(path.stat().st_mode) != 0o600] == []


def test_java_reads_every_letter_of_a_path(context: Context) -> None:
    """Java takes a properties file for Latin-1, and paths for text in the encoding of the locale."""
    path = properties(context, "kafka.properties")["log.dirs"]
    assert path.isascii()
    assert path.encode().decode("unicode_escape") == str(context.config.data("kafka") / "logs")
    assert java.format_properties({"path": r"C:\ü😀"}) == "path=C:\\\\\\u00fc\\ud83d\\ude00\n"


def test_no_configuration_has_a_wildcard_address(context: Context) -> None:
    """Each server listens only where this machine can reach it."""
    assert [path for path, text in configuration_files(context) if re.search(r"0\.0\.0\.0|\[::\]", text)] == []


def test_no_secret_is_an_argument(context: Context) -> None:
    """Every user of the machine can read the arguments of a process."""
    secrets = context.secrets.values.values()
    for server in SERVERS:
        arguments = " ".join(server.launch(context).argv)
        assert not [secret for secret in secrets if secret in arguments], server.name


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_a_server_is_started_by_its_absolute_path(context: Context, server: Any) -> None:
    """Neither the PATH nor the current folder decides which program runs."""
    launch = server.launch(context)
    assert os.path.isabs(launch.argv[0])
    assert launch.folder.is_absolute()


def test_redis_configuration(context: Context) -> None:
    """Redis listens on its loopback port, requires a password, and its writes survive a kill."""
    settings = properties(context, "redis.conf")
    assert settings["bind"] == LOOPBACK
    assert settings["port"] == str(context.config.ports["redis"])
    assert settings["requirepass"] == context.secrets["redis"]
    assert settings["appendonly"] == "yes"
    assert settings["dir"] == f'"{context.config.data("redis")}"'


def test_kafka_configuration(context: Context) -> None:
    """Broker and controller listen on loopback, clients get that address, and there is one partition per shard."""
    config = context.config
    settings = properties(context, "kafka.properties")
    assert settings["listeners"] == (
        f"PLAINTEXT://{config.address('kafka')},CONTROLLER://{config.address('kafka_controller')}"
    )
    assert settings["advertised.listeners"] == f"PLAINTEXT://{config.address('kafka')}"
    assert settings["controller.quorum.voters"] == f"1@{config.address('kafka_controller')}"
    assert (settings["num.partitions"], settings["auto.create.topics.enable"]) == ("7", "false")


def test_kafka_gets_its_heap_and_jars(context: Context) -> None:
    """Java reads both from a file, and the class path has every locked jar in order."""
    arguments = (context.config.run / "kafka.args").read_text(encoding="utf-8").splitlines()
    assert '"-Xmx111m"' in arguments
    path = arguments[arguments.index("-cp") + 1].strip('"').split(":")
    assert path == [str(context.config.jar_cache / jar.file) for jar in jars.read_lock("kafka")]
    (server,) = kafka.SERVERS
    assert f"@{context.config.run / 'kafka.args'}" in server.launch(context).argv


def test_an_embedded_jvm_gets_its_heap_and_jars(context: Context) -> None:
    """The process that hosts the JVM reads the heap, the library and the jars from its settings file."""
    (server,) = neo4j.SERVERS
    settings = json.loads(Path(server.launch(context).argv[-1]).read_text(encoding="utf-8"))
    assert settings["options"][0] == "-Xmx333m"
    assert Path(settings["library"]).exists()
    assert settings["class_path"] == [str(context.config.jar_cache / jar.file) for jar in jars.read_lock("neo4j")]


def test_mongo_configuration(context: Context) -> None:
    """MongoDB listens on its loopback port, stores its files in the home and syncs every write."""
    settings, _ = load_config(context.config.run / "mongo.toml")
    assert (settings.host, settings.port) == (LOOPBACK, context.config.ports["mongo"])
    assert Path(settings.storage_path) == context.config.data("mongo")
    assert settings.sync_on_commit


def test_data_of_the_former_mongodb_server_is_refused(context: Context, tmp_path: Path) -> None:
    """It is left as it is, and the message names the command that starts afresh."""
    config = replace(context.config, home=tmp_path)
    old = config.data("mongo") / "store.mv"
    old.parent.mkdir(parents=True)
    old.touch()
    (server,) = mongo.SERVERS
    with pytest.raises(ConfigurationError, match="cannot read: run make reset"):
        server.prepare(replace(context, config=config))
    assert old.exists()


def test_neo4j_configuration(context: Context) -> None:
    """Neo4j listens on loopback and requires a login; its password is in the environment and in no file."""
    settings = properties(context, "neo4j.conf")
    assert settings["server.bolt.listen_address"] == context.config.address("neo4j")
    assert settings["server.bolt.advertised_address"] == context.config.address("neo4j")
    assert settings["server.default_listen_address"] == LOOPBACK
    assert settings["dbms.security.auth_enabled"] == "true"
    (server,) = neo4j.SERVERS
    assert server.launch(context).environment["MILLRACE_NEO4J_PASSWORD"] == context.secrets["neo4j"]
    assert not [path for path, text in configuration_files(context) if context.secrets["neo4j"] in text]


def test_every_port_of_milvus_is_configured(context: Context) -> None:
    """Each part of Milvus has its own port, its data is in the home, and it stops quickly."""
    config = context.config
    (server,) = milvus.SERVERS
    folder = config.run / "milvus" / "configs"
    engine = yaml.safe_load((folder / "milvus.yaml").read_text(encoding="utf-8"))
    etcd = yaml.safe_load((folder / "etcd.yaml").read_text(encoding="utf-8"))
    ports = [engine[section]["port"] for section in ("rootCoord", "proxy", "queryCoord", "queryNode", "indexNode")]
    ports += [engine[section]["port"] for section in ("dataCoord", "dataNode")] + [engine["proxy"]["internalPort"]]
    ports += [int(etcd[name].rpartition(":")[2]) for name in ("listen-client-urls", "listen-peer-urls")]
    ports += [int(server.launch(context).environment["METRICS_PORT"])]
    assert sorted(ports) == sorted(config.ports[name] for name in server.ports)
    assert engine["proxy"]["port"] == config.ports["milvus"]
    assert engine["etcd"]["endpoints"] == config.address("milvus_etcd")
    for path in (engine["localStorage"]["path"], engine["rocksmq"]["path"], etcd["data-dir"]):
        assert Path(path).is_relative_to(config.data("milvus"))
    assert engine["common"]["gracefulStopTimeout"] <= server.stop.timeout_seconds


def test_airflow_is_configured_by_its_environment(context: Context) -> None:
    """Its four processes share one environment: address, database, secrets, folders and parallelism."""
    config, secrets = context.config, context.secrets
    environments = [
        dict(server.launch(context).environment)
        for server in SERVERS
        if server.name in ("api-server", "scheduler", "dag-processor", "triggerer")
    ]
    assert len(environments) == 4
    assert all(environment == environments[0] for environment in environments)
    environment = environments[0]
    assert (environment["AIRFLOW__API__HOST"], environment["AIRFLOW__API__PORT"]) == (
        LOOPBACK,
        str(config.ports["airflow"]),
    )
    assert environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == f"http://{config.address('airflow')}/execution/"
    assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == (
        f"postgresql+psycopg2://airflow:{secrets['postgres_airflow']}@{config.address('postgres')}/airflow"
    )
    assert environment["AIRFLOW__CORE__FERNET_KEY"] == secrets["airflow_fernet_key"]
    assert environment["AIRFLOW__CORE__DAGS_FOLDER"] == str(PROJECT / "dags")
    assert environment["AIRFLOW__CORE__PARALLELISM"] == str(config.parallelism)
    assert (environment["MILLRACE_SHARDS"], environment["MILLRACE_BATCH_PATH"]) == ("7", config.batches.as_uri())
    assert Path(environment["AIRFLOW_HOME"]).is_relative_to(config.home)


def test_a_fixed_folder_of_another_user_is_rejected(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Milvus writes to a fixed path in the shared temporary folder, where a link could lead it to any file."""
    (server,) = milvus.SERVERS
    monkeypatch.setattr(milvus, "_FIXED_FOLDER", tmp_path / "milvus")
    server.prepare(context)
    assert stat.S_IMODE((tmp_path / "milvus").stat().st_mode) == 0o700
    (tmp_path / "milvus").rmdir()
    (tmp_path / "milvus").symlink_to(tmp_path)
    with pytest.raises(ConfigurationError, match="milvus belongs to another user: remove it, or ask that user to"):
        server.prepare(context)


def test_the_extra_environment_wins(context: Context) -> None:
    """A variable that is added to every process overrides that of the stack."""
    extra = {"AIRFLOW__CORE__PARALLELISM": "1", "MILLRACE_READER_PORT": "1"}
    changed = replace(context, config=replace(context.config, extra_environment=extra))
    environments = {server.name: server.launch(changed).environment for server in SERVERS}
    assert environments["scheduler"]["AIRFLOW__CORE__PARALLELISM"] == "1"
    assert environments["reader"]["MILLRACE_READER_PORT"] == "1"


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The current user is root, and two users exist."""
    users = {"postgres": 70, "root": 0}
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", lambda name: SimpleNamespace(pw_uid=users[name], pw_gid=users[name] + 1))


def test_postgres_runs_as_the_current_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless that is root, no other user is needed and the data is in the home."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    config = read_config({"MILLRACE_POSTGRES_USER": "somebody"}, tmp_path)
    assert postgres.service_account(config) is None
    assert postgres.data_root(config) == config.data("postgres")


@pytest.mark.usefixtures("as_root")
def test_postgres_does_not_run_as_root(tmp_path: Path) -> None:
    """As root it gets another user; a missing user, or root by name, is rejected with the setting to change."""
    assert postgres.service_account(read_config({}, tmp_path)) == Account("postgres", 70, 71)
    for name in ("somebody", "root"):
        with pytest.raises(ConfigurationError, match=rf"no user {name}: set MILLRACE_POSTGRES_USER"):
            postgres.service_account(read_config({"MILLRACE_POSTGRES_USER": name}, tmp_path))


@pytest.mark.usefixtures("as_root")
def test_a_home_that_postgres_cannot_enter() -> None:
    """The data is in the home if PostgreSQL's user may enter it, else in a shared place, one folder per home."""
    with tempfile.TemporaryDirectory(prefix="millrace-folder-") as name:
        above = Path(name)
        configs = [read_config({}, above / home / ".local") for home in ("one", "other")]
        above.chmod(0o711)
        assert [postgres.data_root(config) for config in configs] == [config.data("postgres") for config in configs]
        above.chmod(0o700)
        folders = [postgres.data_root(config) for config in configs]
        assert len(set(folders)) == 2
        assert not [folder for folder in folders if folder.is_relative_to(above)]


def test_each_database_has_its_owner(context: Context) -> None:
    """The set-up has one statement per line: two roles with passwords, each with a database closed to others."""
    lines = postgres._build_setup_statements(context.secrets).splitlines()
    for name, password in (
        ("airflow", context.secrets["postgres_airflow"]),
        ("warehouse", context.secrets["postgres_warehouse"]),
    ):
        assert f"CREATE ROLE {name} LOGIN PASSWORD '{password}'" in lines
        assert f"CREATE DATABASE {name} OWNER {name}" in lines
        assert f"REVOKE ALL ON DATABASE {name} FROM PUBLIC" in lines
        assert postgres.dsn(context.config, context.secrets, name) == (
            f"postgresql://{name}:{password}@{context.config.address('postgres')}/{name}"
        )
