"""What a client of the local stack is told."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from include.settings import Settings
from stack.config import LocalConfig
from stack.credentials import load_or_create
from stack.environment import client_environment, shell_lines

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
    return replace(LocalConfig.with_free_ports(tmp_path / "a home"), shards=7)


@pytest.mark.parametrize(("variable", "port"), ADDRESSES.items())
def test_each_address_has_its_own_port(config: LocalConfig, variable: str, port: str) -> None:
    """No two servers are mixed up, and a moved port is followed."""
    assert re.findall(r"127\.0\.0\.1:\d+", client_environment(config)[variable]) == [config.address(port)]


def test_it_is_all_that_settings_need(config: LocalConfig) -> None:
    """A client of the stack has every setting, with this installation's shards and folder of batches."""
    settings = Settings.from_environment(client_environment(config))
    assert settings.kafka.bootstrap == config.address("kafka")
    assert settings.pipeline.shards == 7
    assert settings.pipeline.batch_path == config.batches.as_uri()


def test_secrets_are_those_of_the_home(config: LocalConfig) -> None:
    """Made if there are none yet, and the same every time; each stands where its server looks for it."""
    environment = client_environment(config)
    secrets = load_or_create(config.home)
    assert client_environment(config) == environment
    assert urlsplit(environment["MILLRACE_REDIS_URL"]).password == secrets.redis
    assert urlsplit(environment["MILLRACE_WAREHOUSE_DSN"]).password == secrets.postgres_warehouse
    assert environment["MILLRACE_NEO4J_PASSWORD"] == secrets.neo4j
    assert environment["MILLRACE_EMBED_API_KEY"] == secrets.embed_api_key
    assert environment["MILLRACE_AIRFLOW_PASSWORD"] == secrets.airflow_admin


def test_no_secret_of_a_server_alone_is_told(config: LocalConfig) -> None:
    """PostgreSQL's administrator and Airflow's own keys are nobody's business."""
    told = " ".join(client_environment(config).values())
    secrets = load_or_create(config.home)
    own = (secrets.postgres_admin, secrets.postgres_airflow, secrets.airflow_fernet_key, secrets.airflow_jwt_secret)
    assert not [secret for secret in (*own, secrets.airflow_api_secret) if secret in told]


def test_a_shell_takes_the_lines(config: LocalConfig) -> None:
    """``eval`` in a shell leaves every value as it is, whatever characters are in it."""
    odd = {"MILLRACE_ODD": "a 'b' \"c\" $HOME `id` \\ ; é\nnext"}
    lines = shell_lines({**client_environment(config), **odd})
    shell = ["bash", "-c", 'eval "$1"; env -0', "bash", lines]
    answer = subprocess.run(shell, capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]})
    found = dict(line.split("=", 1) for line in answer.stdout.split("\0") if line.startswith("MILLRACE_"))
    assert found == {**client_environment(config), **odd}
