"""How docker-compose.airflow.yml runs its containers: images, start-up order, limits, privileges. Sources: ADR 0018."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.image_requirements import parse_entries
from tests.compose import FILE, PROJECT, expand, generate_environment, read_raw

SERVICES: dict[str, dict[str, Any]] = read_raw()["services"]
LONG_RUNNING = [name for name, service in SERVICES.items() if service.get("restart") != "no"]
OWN_IMAGE = [name for name, service in SERVICES.items() if service["image"].startswith("millrace:")]
DOCKER_PAGE = PROJECT / "docs" / "docker.md"
PINNED = {
    name: entry.split()[0].partition("==")[2]
    for name, entry in parse_entries((PROJECT / "requirements.txt").read_text(encoding="utf-8"))
}

#: The programs in each image that health checks may call; ADR 0018 says where each one comes from.
PROGRAMS = {
    "millrace": {"curl", "airflow"},
    "apache/kafka": {"/opt/kafka/bin/kafka-broker-api-versions.sh"},
    "mongo": {"mongosh"},
    "milvusdb/milvus": {"curl"},
    "neo4j": {"cypher-shell"},
    "postgres": {"pg_isready"},
    "valkey/valkey": {"valkey-cli"},
}
#: Their start-up scripts or servers write into the image's own folders.
NOT_READ_ONLY = {
    *("airflow-init", "airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer"),
    *("kafka", "milvus", "neo4j"),
}
_BYTES = {"m": 2**20, "g": 2**30}


def memory_of(name: str) -> int:
    """The memory limit of a service, in bytes."""
    limit = re.fullmatch(r"(\d+)([mg])", SERVICES[name]["mem_limit"])
    assert limit, f"{name} has the memory limit {SERVICES[name]['mem_limit']!r}"
    return int(limit[1]) * _BYTES[limit[2]]


def script_of(name: str) -> str:
    """The shell script that a service runs, as its shell sees it."""
    service: dict[str, Any] = expand(generate_environment())["services"][name]
    script: str = service["command"][-1]
    return script


def test_exactly_one_service_builds_the_image() -> None:
    """Parallel builds of one image name fail. The other services use the name, and never ask a registry for it."""
    builders = [name for name, service in SERVICES.items() if "build" in service]
    assert len(builders) == 1
    assert SERVICES[builders[0]]["pull_policy"] == "build"
    for name in set(OWN_IMAGE) - set(builders):
        assert SERVICES[name]["pull_policy"] == "never", name


def test_no_image_is_gone() -> None:
    """Docker Hub no longer has minio/minio, and Milvus needs neither it nor etcd in containers of their own."""
    images = {service["image"].partition(":")[0] for service in SERVICES.values()}
    assert images == set(PROGRAMS)


def test_milvus_needs_no_other_server() -> None:
    """Milvus stores data, its log and its metadata in its own volume, and runs etcd in its own process."""
    milvus = SERVICES["milvus"]
    settings = milvus["environment"]
    assert settings["DEPLOY_MODE"] == "STANDALONE"
    assert settings["COMMON_STORAGETYPE"] == "local"
    assert settings["ETCD_USE_EMBED"] == "true"
    (data,) = [mount for mount in milvus["volumes"] if mount.startswith("milvus:")]
    assert settings["ETCD_DATA_DIR"].startswith(f"{data.split(':')[1]}/")
    (mount,) = [mount for mount in milvus["volumes"] if mount.startswith("./")]
    source, target, mode = mount.split(":")
    assert (target, mode) == (settings["ETCD_CONFIG_PATH"], "ro")
    etcd = yaml.safe_load((PROJECT / source).read_text(encoding="utf-8"))
    assert etcd["listen-client-urls"] == etcd["advertise-client-urls"] == "http://127.0.0.1:2379"
    assert "depends_on" not in milvus


def test_the_milvus_server_pairs_with_its_client() -> None:
    """Milvus pairs a server with the pymilvus of the same major and minor version."""
    server = SERVICES["milvus"]["image"].partition(":v")[2]
    assert server.split(".")[:2] == PINNED["pymilvus"].split(".")[:2]


def test_mongodb_runs_no_temporary_server() -> None:
    """The image starts a temporary server only if a root user is asked for, and a health check could mistake it."""
    assert not [name for name in SERVICES["mongo"]["environment"] if name.startswith("MONGO_INITDB_")]
    assert SERVICES["mongo-init"]["network_mode"] == "service:mongo"
    assert "mongodb://127.0.0.1:27017/" in SERVICES["mongo-init"]["command"][-1]


def test_mongodb_initialisation_repeats_until_it_succeeds(tmp_path: Path) -> None:
    """It tries again after each failure and stops at the first success."""
    bash = shutil.which("bash")
    assert bash
    programs = {"mongosh": 'echo call >> calls; [ "$(wc -l < calls)" -ge 3 ]', "sleep": ":"}
    for program, script in programs.items():
        (tmp_path / program).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (tmp_path / program).chmod(0o700)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "MONGO_PASSWORD": "x"}
    answer = subprocess.run([bash, "-c", script_of("mongo-init")], cwd=tmp_path, env=environment, check=False)
    assert answer.returncode == 0
    assert (tmp_path / "calls").read_text(encoding="utf-8").count("call") == 3


def test_mongodb_initialisation_may_run_again() -> None:
    """Each step first looks whether it has been done: the login, the replica set, the primary, the user."""
    script = script_of("mongo-init")
    steps = ["db.auth(", "rs.status()", "rs.initiate(", "isWritablePrimary", "db.createUser("]
    assert sorted(steps, key=script.index) == steps
    assert 'codeName !== "AuthenticationFailed"' in script
    assert 'codeName !== "NotYetInitialized"' in script
    assert "if (!known) db.createUser(" in script


@pytest.mark.parametrize("name", [name for name in SERVICES if isinstance(SERVICES[name].get("command"), list)])
def test_start_up_scripts_are_valid_shell(name: str) -> None:
    """A syntax error in a script would show only when the container starts."""
    bash = shutil.which("bash")
    assert bash
    command = [*SERVICES[name].get("entrypoint", []), *SERVICES[name]["command"]]
    if "-c" in command:
        answer = subprocess.run([bash, "-n", "-c", script_of(name)], capture_output=True, text=True, check=False)
        assert (answer.returncode, answer.stderr) == (0, "")


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_a_memory_limit(name: str) -> None:
    """One server must not push the others out of the machine's memory."""
    assert memory_of(name) >= 128 * _BYTES["m"]


def test_the_page_gives_the_sum_of_the_memory_limits() -> None:
    """docs/docker.md says how much memory all long-running services may use together."""
    total = sum(memory_of(name) for name in LONG_RUNNING) / _BYTES["g"]
    assert f"{total:g} GiB" in DOCKER_PAGE.read_text(encoding="utf-8")


def test_servers_fit_into_their_memory_limits() -> None:
    """The memory that each server is told to use leaves at least a third of its limit for everything else."""
    neo4j = SERVICES["neo4j"]["environment"]
    assert (neo4j["NEO4J_server_memory_heap_max__size"], neo4j["NEO4J_server_memory_pagecache_size"]) == ("1g", "256m")
    cache = re.search(r"--wiredTigerCacheSizeGB (\d+\.\d+)", script_of("mongo"))
    redis = re.search(r"maxmemory (\d+)mb", script_of("redis"))
    heap = re.search(r"-Xmx(\d+)m", SERVICES["kafka"]["environment"]["KAFKA_HEAP_OPTS"])
    assert cache
    assert redis
    assert heap
    told = {
        "neo4j": (1024 + 256) * _BYTES["m"],
        "mongo": float(cache[1]) * _BYTES["g"],
        "redis": int(redis[1]) * _BYTES["m"],
        "kafka": int(heap[1]) * _BYTES["m"],
    }
    for name, size in told.items():
        assert size <= memory_of(name) * 2 / 3, name


@pytest.mark.parametrize("name", SERVICES)
def test_logs_are_rotated(name: str) -> None:
    """The json-file driver keeps every line for ever unless it is told a size."""
    assert SERVICES[name]["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}}


@pytest.mark.parametrize("name", SERVICES)
def test_services_cannot_gain_privileges(name: str) -> None:
    """No process runs as root, has a capability, or gains either through a setuid program."""
    service = SERVICES[name]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["cap_drop"] == ["ALL"]
    assert not service.get("privileged")
    assert service["user"].partition(":")[0] not in ("", "0", "root")


@pytest.mark.parametrize("name", SERVICES)
def test_file_systems_are_read_only_where_possible(name: str) -> None:
    """Only volumes and temporary folders in memory can be written."""
    assert bool(SERVICES[name].get("read_only")) == (name not in NOT_READ_ONLY)
    if SERVICES[name].get("read_only"):
        assert "/tmp" in SERVICES[name]["tmpfs"]


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_long_running_services_restart_and_stop_gracefully(name: str) -> None:
    """They come back after a failure, and have more than Docker's default of ten seconds to stop."""
    assert SERVICES[name]["restart"] == "unless-stopped"
    seconds = re.fullmatch(r"(\d+)s", SERVICES[name]["stop_grace_period"])
    assert seconds
    assert int(seconds[1]) >= (60 if any(mount.startswith(f"{name}:") for mount in mounts(name)) else 30)


def mounts(name: str) -> list[str]:
    """The volumes of a service."""
    return list(SERVICES[name].get("volumes", []))


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_health_checks_call_programs_that_the_image_has(name: str) -> None:
    """A health check whose program is missing never succeeds."""
    kind, *command = SERVICES[name]["healthcheck"]["test"]
    words = command[0].split() if kind == "CMD-SHELL" else command
    program = next(word for word in words if not re.match(r"[A-Z0-9_]+=", word))
    assert program in PROGRAMS[SERVICES[name]["image"].partition(":")[0]]


def test_the_executor_is_a_setting() -> None:
    """The default runs from the image as it is; others need a provider package that requirements.txt does not pin."""
    services = expand(generate_environment())["services"]
    assert services["airflow-scheduler"]["environment"]["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    changed = expand({**generate_environment(), "AIRFLOW_EXECUTOR": "CeleryExecutor"})["services"]
    for name, service in changed.items():
        if name.startswith("airflow-"):
            assert service["environment"]["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"
    assert not {name for name in PINNED if re.search(r"celery|cncf-kubernetes", name)}


def test_the_file_and_its_page_say_that_nothing_was_started() -> None:
    """Readers must know that the file is checked, not tried."""
    for path in (FILE, DOCKER_PAGE, PROJECT / "docs" / "adr" / "0018-compose-file.md"):
        text = " ".join(path.read_text(encoding="utf-8").replace("\n#", "\n").split())
        assert "No container has been started from" in text, path.name
