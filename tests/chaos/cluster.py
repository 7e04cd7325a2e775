"""The local stack in a temporary home, with a proxy between the pipeline and each server that it uses.

Airflow's connections and the reader's address of Redis name the proxies; the harness and the checker use the servers'
own ports, so that a fault of a proxy does not disturb what they see.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from include.settings import EnvironmentSettings, Settings
from include.sources.kafka_topics import ensure_topics
from include.stores.warehouse.warehouse import Warehouse
from stack import records
from stack.airflow_settings import build_seeds
from stack.config import LOOPBACK, LocalConfig, find_free_ports
from stack.credentials import Secrets
from stack.installation import client_environment, config_on_free_ports, create_folders, load_secrets
from stack.interrupts import handle_interrupts
from stack.server import Report
from stack.servers import SERVERS
from stack.servers.redis import redis_url
from stack.stack import Stack
from stack.supervise import Supervisor
from tests.chaos.load import REFUSED_MARK
from tests.chaos.proxy import Proxies
from tests.chaos.schedule import PROXIED

#: Small enough for several batches per minute and shard.
BATCH_SIZE = 5_000
#: The load has more messages that aren't valid events than a topic should.
PIPELINE = {"BATCH_SIZE": str(BATCH_SIZE), "MAX_REJECT_PERCENT": "50"}
#: The listener of Kafka whose advertised address is the proxy's.
_PROXIED_LISTENER = "PROXIED"
_STOP_S = 30
_REFUSE = "ALTER TABLE events ADD CONSTRAINT refused CHECK (extra IS NULL OR extra::text NOT LIKE %(pattern)s)"


@dataclass
class Cluster:
    """A running stack. ``settings`` and ``environment`` are for clients that bypass the proxies."""

    stack: Stack
    proxies: Proxies

    @property
    def config(self) -> LocalConfig:
        return self.stack.config

    @property
    def environment(self) -> dict[str, str]:
        return client_environment(self.config) | {f"MILLRACE_{name}": value for name, value in PIPELINE.items()}

    @property
    def settings(self) -> EnvironmentSettings:
        return EnvironmentSettings(self.environment)

    def pids(self, server: str) -> list[int]:
        """The running processes of a server."""
        record = records.read_record(self.config.run, server)
        return record.members() if record is not None else []

    def task_pids(self) -> list[int]:
        """The processes that run a task: the scheduler's executor forks workers, and each of these forks one."""
        record = records.read_record(self.config.run, "scheduler")
        if record is None or not record.alive:
            return []
        with suppress(psutil.Error):
            workers = psutil.Process(record.pid).children()
            return [task.pid for worker in workers for task in _children(worker)]
        return []

    def find_given_up(self) -> list[str]:
        """The servers that the supervisor has stopped restarting."""
        states = Supervisor(self.config).states()
        return sorted(name for name, state in states.items() if state.state == "FATAL")


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children()
    except psutil.Error:
        return []


def send_signal(pids: list[int], signum: signal.Signals) -> None:
    """Send it to each process that still exists."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signum)


@contextmanager
def running_cluster(shards: int, report: Report, keep: list[str]) -> Iterator[Cluster]:
    """Start everything; at the end stop it, and delete its home unless ``keep`` says why it must stay."""
    # Not below the user's folders: PostgreSQL may run as another user, who must be able to enter it.
    home = Path(tempfile.mkdtemp(prefix="millrace-chaos-"))
    config = config_on_free_ports(home, {"MILLRACE_SHARDS": str(shards)})
    create_folders(config)
    secrets = load_secrets(config)
    *proxy_ports, kafka_port = find_free_ports(len(PROXIED) + 1)
    listening = dict(zip(PROXIED, proxy_ports, strict=True))
    targets = {server: config.ports[server] for server in PROXIED} | {"kafka": kafka_port}
    config = replace(config, extra_environment=proxied_environment(config, secrets, listening))
    stack = Stack(config, report)
    try:
        with Proxies({server: (listening[server], targets[server]) for server in PROXIED}) as proxies:
            try:
                stack.up(["kafka"])
                properties = config.run / "kafka.properties"
                text = properties.read_text(encoding="utf-8")
                properties.write_text(add_listener(text, kafka_port, listening["kafka"]), encoding="utf-8")
                _restart(config, "kafka")
                stack.up()
                cluster = Cluster(stack, proxies)
                ensure_topics(cluster.settings.kafka, shards)
                yield cluster
            finally:
                handle_interrupts(lambda: report("stopping the servers; this takes at most a minute"))
                # A stopped process would not react to the request to stop.
                send_signal(sorted(records.find_processes(config.run)), signal.SIGCONT)
                stack.down()
    except Exception as error:
        keep.append(type(error).__name__)
        raise
    finally:
        if keep:
            report(f"logs and stores are left in {home} ({'; '.join(keep)}); delete them with rm -r {home}")
        else:
            stack.reset()
            shutil.rmtree(home, ignore_errors=True)


def refuse_marked(settings: Settings) -> None:
    """Make the warehouse refuse marked messages. By itself no store refuses anything that passes validation."""
    with closing(Warehouse(settings.warehouse)) as warehouse:
        warehouse.database.execute(_REFUSE, {"pattern": f"%{REFUSED_MARK}%"})


def proxied_environment(config: LocalConfig, secrets: Secrets, listening: Mapping[str, int]) -> dict[str, str]:
    """What Airflow and the reader need so that they connect through the proxies."""
    behind = replace(config, ports={**config.ports, **listening})
    overrides: dict[str, Mapping[str, Any]] = {}
    for server in SERVERS:
        overrides.update(server.connections(behind, secrets))
    environment = {f"AIRFLOW_VAR_MILLRACE_{name}": value for name, value in PIPELINE.items()} | {
        f"MILLRACE_{name}": value for name, value in PIPELINE.items()
    }
    for connection in build_seeds(overrides)["connections"]:
        extra = connection.pop("extra")
        if connection["conn_id"] == "neo4j_default":
            # With neo4j:// the server would return its own address, and the driver would bypass the proxy.
            extra = {**extra, "scheme": "bolt"}
        if connection["conn_id"] == "mongo_default":
            extra = {**extra, "directConnection": "true"}  # likewise
        name = f"AIRFLOW_CONN_{connection.pop('conn_id').upper()}"
        environment[name] = json.dumps({**connection, "extra": extra})
    return environment | {"MILLRACE_REDIS_URL": redis_url(behind, secrets)}


def add_listener(properties: str, port: int, proxy: int) -> str:
    """Kafka's properties with a listener on another port, which tells its clients to connect to the proxy."""
    added = {
        "listeners": f"{_PROXIED_LISTENER}://{LOOPBACK}:{port}",
        "advertised.listeners": f"{_PROXIED_LISTENER}://{LOOPBACK}:{proxy}",
        "listener.security.protocol.map": f"{_PROXIED_LISTENER}:PLAINTEXT",
    }
    lines = properties.splitlines()
    for number, line in enumerate(lines):
        if addition := added.get(line.partition("=")[0]):
            lines[number] = f"{line},{addition}"
    return "\n".join([*lines, ""])


def _restart(config: LocalConfig, server: str) -> None:
    supervisor = Supervisor(config)
    supervisor.stop_server(server)
    deadline = time.monotonic() + _STOP_S
    while supervisor.states()[server].state not in ("STOPPED", "EXITED", "FATAL"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{server} did not stop within {_STOP_S} s")
        time.sleep(0.1)
    supervisor.start_server(server)
