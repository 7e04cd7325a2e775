"""The configuration that is written for each server: its ports, the loopback interface, and no secret in sight."""

from __future__ import annotations

import json
import os
import pwd
import re
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from include.errors import ConfigurationError
from stack import jars
from stack.config import LOOPBACK, PROJECT, LocalConfig
from stack.credentials import load_or_create
from stack.server import Account, Context
from stack.servers import SERVERS, kafka, milvus, mongo, neo4j, postgres, redis

#: Those that need no program to be run, and leave files behind.
WRITE = (kafka.SERVER, milvus.SERVER, mongo.SERVER, neo4j.SERVER, redis.SERVER)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """Every server prepared, with jars and an engine that are there in name alone, and Kafka's store formatted."""
    folder = tmp_path_factory.mktemp("servers")
    heaps = {"kafka": "111m", "mongo": "222m", "neo4j": "333m"}
    config = replace(LocalConfig.with_free_ports(folder / "home"), jar_cache=folder / "jars", heaps=heaps, shards=7)
    for jar in jars.parse(jars.LOCK.read_text(encoding="utf-8")):
        (config.jar_cache / jar.file).parent.mkdir(parents=True, exist_ok=True)
        (config.jar_cache / jar.file).touch()
    milvus.engine(config).mkdir()
    (config.data("kafka") / "logs").mkdir(parents=True)
    (config.data("kafka") / "logs" / "meta.properties").touch()
    made = Context(config, load_or_create(config.home))
    for server in WRITE:
        server.prepare(made)
    return made


def written(context: Context) -> Iterator[tuple[Path, str]]:
    """Every file of configuration, with its text."""
    for path in sorted(context.config.run.rglob("*")):
        if path.is_file():
            yield path, path.read_text(encoding="utf-8")


def properties(context: Context, name: str) -> dict[str, str]:
    """Lines of ``name=value`` or ``name value``."""
    lines = (context.config.run / name).read_text(encoding="utf-8").splitlines()
    return {found[1]: found[2] for line in lines if (found := re.match(r"([^= ]+)[= ](.*)", line))}


def test_configuration_is_for_its_owner_alone(context: Context) -> None:
    """Some of it carries secrets; none of it is anybody's business."""
    assert len(list(written(context))) >= len(WRITE)
    assert [path for path, _ in written(context) if stat.S_IMODE(path.stat().st_mode) != 0o600] == []


def test_no_configuration_names_every_interface(context: Context) -> None:
    """Each server listens where only this machine reaches it."""
    assert [path for path, text in written(context) if re.search(r"0\.0\.0\.0|\[::\]", text)] == []


def test_no_secret_is_an_argument(context: Context) -> None:
    """Everybody on the machine can read the arguments of a process."""
    secrets = asdict(context.secrets).values()
    for server in SERVERS:
        arguments = " ".join(server.launch(context).argv)
        assert not [secret for secret in secrets if secret in arguments], server.name


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_a_server_is_started_by_a_whole_path(context: Context, server: Any) -> None:
    """Whatever else is on the PATH; what its folder says does not change which program it is."""
    launch = server.launch(context)
    assert os.path.isabs(launch.argv[0])
    assert launch.folder.is_absolute()


def test_redis_keeps_to_its_port_and_password(context: Context) -> None:
    """Loopback, its port, a password, and what was written outlives a kill."""
    found = properties(context, "redis.conf")
    assert found["bind"] == LOOPBACK
    assert found["port"] == str(context.config.ports["redis"])
    assert found["requirepass"] == context.secrets.redis
    assert found["appendonly"] == "yes"
    assert found["dir"] == f'"{context.config.data("redis")}"'


def test_kafka_keeps_to_its_ports(context: Context) -> None:
    """Broker and controller on loopback; clients are sent to the same address; as many partitions as shards."""
    config = context.config
    found = properties(context, "kafka.properties")
    assert found["listeners"] == (
        f"PLAINTEXT://{config.address('kafka')},CONTROLLER://{config.address('kafka_controller')}"
    )
    assert found["advertised.listeners"] == f"PLAINTEXT://{config.address('kafka')}"
    assert found["controller.quorum.voters"] == f"1@{config.address('kafka_controller')}"
    assert (found["num.partitions"], found["auto.create.topics.enable"]) == ("7", "false")
    assert Path(found["log.dirs"]).is_relative_to(config.home)


def test_kafka_is_given_its_heap_and_jars(context: Context) -> None:
    """Java reads them from a file: the class path has every locked jar in its order."""
    arguments = (context.config.run / "kafka.args").read_text(encoding="utf-8").splitlines()
    assert '"-Xmx111m"' in arguments
    path = arguments[arguments.index("-cp") + 1].strip('"').split(":")
    assert path == [str(context.config.jar_cache / jar.file) for jar in jars.locked("kafka")]
    assert f"@{context.config.run / 'kafka.args'}" in kafka.SERVER.launch(context).argv


@pytest.mark.parametrize(("server", "heap"), [("mongo", "-Xmx222m"), ("neo4j", "-Xmx333m")])
def test_a_carried_jvm_is_given_its_heap_and_jars(context: Context, server: str, heap: str) -> None:
    """The process that carries the JVM finds the heap, the library and the jars in the file that it is named."""
    (found,) = (server_ for server_ in SERVERS if server_.name == server)
    settings = json.loads(Path(found.launch(context).argv[-1]).read_text(encoding="utf-8"))
    assert settings["options"][0] == heap
    assert Path(settings["library"]).exists()
    assert settings["class_path"] == [str(context.config.jar_cache / jar.file) for jar in jars.locked(server)]


def test_mongo_keeps_to_its_port(context: Context) -> None:
    """Loopback, its port, and a file in the home."""
    settings = json.loads((context.config.run / "mongo.json").read_text(encoding="utf-8"))
    assert (settings["host"], settings["port"]) == (LOOPBACK, context.config.ports["mongo"])
    assert Path(settings["file"]).is_relative_to(context.config.data("mongo"))


def test_neo4j_keeps_to_its_port_and_password(context: Context) -> None:
    """Loopback alone, with a login; the password is in the environment and in no file of it."""
    found = properties(context, "neo4j.conf")
    assert found["server.bolt.listen_address"] == context.config.address("neo4j")
    assert found["server.bolt.advertised_address"] == context.config.address("neo4j")
    assert found["server.default_listen_address"] == LOOPBACK
    assert found["dbms.security.auth_enabled"] == "true"
    assert neo4j.SERVER.launch(context).environment["MILLRACE_NEO4J_PASSWORD"] == context.secrets.neo4j
    assert not [path for path, text in written(context) if context.secrets.neo4j in text]


def test_every_port_of_milvus_is_ours(context: Context) -> None:
    """Each part of the engine has its own port, its store is in the home, and a stop is short."""
    config = context.config
    folder = config.run / "milvus" / "configs"
    engine = yaml.safe_load((folder / "milvus.yaml").read_text(encoding="utf-8"))
    etcd = yaml.safe_load((folder / "etcd.yaml").read_text(encoding="utf-8"))
    ports = [engine[section]["port"] for section in ("rootCoord", "proxy", "queryCoord", "queryNode", "indexNode")]
    ports += [engine[section]["port"] for section in ("dataCoord", "dataNode")] + [engine["proxy"]["internalPort"]]
    ports += [int(etcd[name].rpartition(":")[2]) for name in ("listen-client-urls", "listen-peer-urls")]
    ports += [int(milvus.SERVER.launch(context).environment["METRICS_PORT"])]
    assert sorted(ports) == sorted(config.ports[name] for name in milvus.SERVER.ports)
    assert engine["proxy"]["port"] == config.ports["milvus"]
    assert engine["etcd"]["endpoints"] == config.address("milvus_etcd")
    for path in (engine["localStorage"]["path"], engine["rocksmq"]["path"], etcd["data-dir"]):
        assert Path(path).is_relative_to(config.data("milvus"))
    assert engine["common"]["gracefulStopTimeout"] <= milvus.SERVER.stop.seconds


def test_airflow_is_told_all_by_its_environment(context: Context) -> None:
    """Its four processes share one: address, database, secrets, folders, and how many tasks run at a time."""
    config, secrets = context.config, context.secrets
    environments = [
        dict(server.launch(context).environment)
        for server in SERVERS
        if server.name in ("api-server", "scheduler", "dag-processor", "triggerer")
    ]
    assert len(environments) == 4
    assert all(environment == environments[0] for environment in environments)
    found = environments[0]
    assert (found["AIRFLOW__API__HOST"], found["AIRFLOW__API__PORT"]) == (LOOPBACK, str(config.ports["airflow"]))
    assert found["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == f"http://{config.address('airflow')}/execution/"
    assert found["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == (
        f"postgresql+psycopg2://airflow:{secrets.postgres_airflow}@{config.address('postgres')}/airflow"
    )
    assert found["AIRFLOW__CORE__FERNET_KEY"] == secrets.airflow_fernet_key
    assert found["AIRFLOW__CORE__DAGS_FOLDER"] == str(PROJECT / "dags")
    assert found["AIRFLOW__CORE__PARALLELISM"] == str(config.parallelism)
    assert (found["MILLRACE_SHARDS"], found["MILLRACE_BATCH_PATH"]) == ("7", config.batches.as_uri())
    assert Path(found["AIRFLOW_HOME"]).is_relative_to(config.home)


def test_the_environment_of_a_test_wins(context: Context) -> None:
    """What is added to every process goes before what the stack would set."""
    extra = {"AIRFLOW__CORE__PARALLELISM": "1", "MILLRACE_READER_PORT": "1"}
    changed = replace(context, config=replace(context.config, extra_environment=extra))
    found = {server.name: server.launch(changed).environment for server in SERVERS}
    assert found["scheduler"]["AIRFLOW__CORE__PARALLELISM"] == "1"
    assert found["reader"]["MILLRACE_READER_PORT"] == "1"


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who runs us is root, and there are two users."""
    users = {"postgres": 70, "root": 0}
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", lambda name: SimpleNamespace(pw_uid=users[name], pw_gid=users[name] + 1))


def test_postgres_runs_as_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is not root needs nobody else, and its data is in the home."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    config = LocalConfig(home=tmp_path, postgres_user="somebody")
    assert postgres.account(config) is None
    assert postgres.root(config) == config.data("postgres")


@pytest.mark.usefixtures("as_root")
def test_postgres_does_not_run_as_root(tmp_path: Path) -> None:
    """Root lends it another user; one that does not exist, or root by name, is refused with the setting."""
    assert postgres.account(LocalConfig(home=tmp_path)) == Account("postgres", 70, 71)
    for name in ("somebody", "root"):
        with pytest.raises(ConfigurationError, match=rf"no user {name}: set MILLRACE_POSTGRES_USER"):
            postgres.account(LocalConfig(home=tmp_path, postgres_user=name))


@pytest.mark.usefixtures("as_root")
def test_a_home_that_is_closed_to_postgres() -> None:
    """Its data is in the home if its user may pass every folder above; else elsewhere, each home with its own."""
    with tempfile.TemporaryDirectory(prefix="millrace-place-") as name:
        above = Path(name)
        configs = [LocalConfig(home=above / home / ".local") for home in ("one", "other")]
        above.chmod(0o711)
        assert [postgres.root(config) for config in configs] == [config.data("postgres") for config in configs]
        above.chmod(0o700)
        places = [postgres.root(config) for config in configs]
        assert len(set(places)) == 2
        assert not [place for place in places if place.is_relative_to(above)]


def test_a_folder_that_somebody_else_put_there_is_refused(tmp_path: Path) -> None:
    """In a place that everybody can write to, a link or a stranger's folder could lead anywhere."""
    made = postgres._owned(tmp_path / "made")
    assert stat.S_IMODE(made.stat().st_mode) == 0o711
    assert postgres._owned(made) == made
    (tmp_path / "link").symlink_to(made)
    with pytest.raises(ConfigurationError, match=r"link belongs to somebody else: remove it, or set MILLRACE_HOME"):
        postgres._owned(tmp_path / "link")


def test_each_database_has_its_owner(context: Context) -> None:
    """Single-user mode takes a statement a line: two roles with a password, a database each, closed to others."""
    lines = postgres._statements(context.secrets).splitlines()
    for name, password in (
        ("airflow", context.secrets.postgres_airflow),
        ("warehouse", context.secrets.postgres_warehouse),
    ):
        assert f"CREATE ROLE {name} LOGIN PASSWORD '{password}'" in lines
        assert f"CREATE DATABASE {name} OWNER {name}" in lines
        assert f"REVOKE ALL ON DATABASE {name} FROM PUBLIC" in lines
        assert postgres.dsn(context, name) == (
            f"postgresql://{name}:{password}@{context.config.address('postgres')}/{name}"
        )
