"""Airflow's four processes. They share one environment; their metadata is in the stack's PostgreSQL.

Not ``airflow standalone``, which leaves its children behind when it is stopped and lets tasks start before the API
that they report to is listening.
"""

from __future__ import annotations

import base64
import json
import secrets as random
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from include.errors import TransientError
from stack import airflow_settings, records
from stack.config import LOOPBACK, PROJECT, LocalConfig
from stack.credentials import Secrets, random_token, write_private
from stack.private import create_folder
from stack.probe import http_get_json
from stack.server import Context, Launch, Server, Stop, python_environment
from stack.servers.postgres import dsn

SEED_SCRIPT = PROJECT / "scripts" / "seed_airflow.py"

_USER = "admin"

#: A task has one core; more threads only slow down the servers next to it.
_LIBRARIES = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "GX_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "SCARF_ANALYTICS": "false",
}


def home(config: LocalConfig) -> Path:
    """Airflow's home: logs and passwords."""
    return config.home / "airflow"


def _url(config: LocalConfig) -> str:
    return f"http://{config.address('airflow')}"


def environment(context: Context) -> dict[str, str]:
    """The environment of every Airflow process, including commands that a user runs. ``extra_environment`` wins."""
    config, secrets = context.config, context.secrets
    sections = {
        "CORE": _build_core_section(context),
        "DATABASE": {
            "SQL_ALCHEMY_CONN": dsn(config, secrets, "airflow").replace("postgresql://", "postgresql+psycopg2://", 1),
            "LOAD_DEFAULT_CONNECTIONS": "False",
        },
        "API": {
            "HOST": LOOPBACK,
            "PORT": str(config.ports["airflow"]),
            "BASE_URL": _url(config),
            "SECRET_KEY": secrets["airflow_api_secret"],
            "WORKERS": "1",
        },
        "API_AUTH": {"JWT_SECRET": secrets["airflow_jwt_secret"]},
        # A sibling that was forked meanwhile keeps a task's sockets open: its worker waits for them this long, and so
        # does a scheduler that stops. The default is a minute.
        "WORKERS": {"EXECUTION_API_RETRIES": "10", "SOCKET_CLEANUP_TIMEOUT": "5"},
        # Parsing costs seconds of CPU, and the DAG files do not change by themselves.
        "DAG_PROCESSOR": {"MIN_FILE_PROCESS_INTERVAL": "300", "PARSING_PROCESSES": "1"},
        # After a kill, interrupted tasks are found and retried within half a minute instead of five: the next scheduler
        # looks for them every 10 s, once the killed one has sent no heartbeat for 20 s.
        "SCHEDULER": {
            "ORPHANED_TASKS_CHECK_INTERVAL": "10",
            "SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
            "TASK_INSTANCE_HEARTBEAT_TIMEOUT": "120",
        },
        # Likewise, the next triggerer takes over the triggers of a killed one.
        "TRIGGERER": {"TRIGGERER_HEALTH_CHECK_THRESHOLD": "20"},
        "LOGGING": {
            "BASE_LOG_FOLDER": str(home(config) / "logs"),
            # The defaults let the group write the logs of tasks and everyone read them, whatever the umask.
            "FILE_TASK_HANDLER_NEW_FOLDER_PERMISSIONS": "0o700",
            "FILE_TASK_HANDLER_NEW_FILE_PERMISSIONS": "0o600",
        },
        "USAGE_DATA_COLLECTION": {"ENABLED": "False"},
    }
    flat = {f"AIRFLOW__{name}__{key}": value for name, keys in sections.items() for key, value in keys.items()}
    # The client variables are read while DAG files are parsed; tasks get everything else from connections.
    return python_environment(config, AIRFLOW_HOME=str(home(config)), **_LIBRARIES, **config.client_variables, **flat)


def _build_core_section(context: Context) -> dict[str, str]:
    config = context.config
    return {
        "DAGS_FOLDER": str(config.dags_folder),
        "PLUGINS_FOLDER": str(config.plugins_folder),
        "LOAD_EXAMPLES": "False",
        "DAGS_ARE_PAUSED_AT_CREATION": "False",
        "EXECUTOR": "LocalExecutor",
        "PARALLELISM": str(config.parallelism),
        "FERNET_KEY": context.secrets["airflow_fernet_key"],
        # Airflow does not derive it from API__PORT.
        "EXECUTION_API_SERVER_URL": f"{_url(config)}/execution/",
        "SIMPLE_AUTH_MANAGER_USERS": f"{_USER}:admin",
        "SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home(config) / "passwords.json"),
    }


def _launch(context: Context, *arguments: str) -> Launch:
    return Launch((sys.executable, "-m", "airflow", *arguments), PROJECT, environment(context))


def _seed(context: Context) -> None:
    """Migrate the metadata database and write connections, pools and variables, unless nothing has changed."""
    config = context.config
    folder = home(config)
    create_folder(folder)
    create_folder(config.batches)
    write_private(folder / "passwords.json", json.dumps({_USER: context.secrets["airflow_admin"]}))
    connections: dict[str, Mapping[str, object]] = {}
    for server in context.servers:
        connections.update(server.connections(config, context.secrets))
    seeds = json.dumps(airflow_settings.build_seeds(connections), indent=1)
    applied = folder / "seeded.json"
    if applied.exists() and applied.read_text(encoding="utf-8") == seeds:
        return
    context.report_progress("preparing the metadata database")
    pending = config.run / "seeds.json"
    write_private(pending, seeds)
    context.run("api-server", Launch((sys.executable, str(SEED_SCRIPT), str(pending)), PROJECT, environment(context)))
    pending.replace(applied)


def _check_api(context: Context) -> None:
    _read_healthy_component(context, "metadatabase")


def _read_healthy_component(context: Context, name: str) -> dict[str, object]:
    """What Airflow reports about one of its components. Raises ``TransientError`` unless it is healthy."""
    health = http_get_json(f"{_url(context.config)}/api/v2/monitor/health", seconds=5)
    component = health.get(name)
    if not isinstance(component, dict) or component.get("status") != "healthy":
        raise TransientError(f"Airflow reports {name} as {component}")
    return component


def _check_heartbeat(context: Context, server: str, component: str) -> None:
    """Whether a process without a port has sent a heartbeat since it was started."""
    heartbeat = _read_healthy_component(context, component).get(f"latest_{component}_heartbeat")
    started = datetime.fromtimestamp(records.record_path(context.config.run, server).stat().st_mtime, UTC)
    if not isinstance(heartbeat, str) or datetime.fromisoformat(heartbeat) < started:
        raise TransientError(f"{server} has not sent a heartbeat yet")


def _client_variables(config: LocalConfig, secrets: Secrets) -> Mapping[str, str]:
    return {
        "MILLRACE_AIRFLOW_URL": _url(config),
        "MILLRACE_AIRFLOW_USER": _USER,
        "MILLRACE_AIRFLOW_PASSWORD": secrets["airflow_admin"],
    }


def _generate_fernet_key() -> str:
    return base64.urlsafe_b64encode(random.token_bytes(32)).decode()


def _build_worker(name: str, priority: int, component: str, *options: str, stop_seconds: int) -> Server:
    launch: Callable[[Context], Launch] = lambda context: _launch(context, name, *options)  # noqa: E731
    return Server(
        name=name,
        priority=priority,
        launch=launch,
        check_health=partial(_check_heartbeat, server=name, component=component),
        needs=("api-server",),
        min_uptime_seconds=10,
        stop=Stop(timeout_seconds=stop_seconds, order=10),
    )


SERVERS = (
    Server(
        name="api-server",
        priority=70,
        ports={"airflow": 18080},
        packages=("airflow", "yaml"),
        secrets={
            "airflow_admin": random_token,
            "airflow_fernet_key": _generate_fernet_key,
            "airflow_jwt_secret": lambda: random.token_hex(64),
            "airflow_api_secret": random_token,
        },
        client_variables=_client_variables,
        prepare=_seed,
        launch=lambda context: _launch(
            context, "api-server", "--host", LOOPBACK, "--port", str(context.config.ports["airflow"])
        ),
        check_health=_check_api,
        needs=("postgres",),
        start_timeout_seconds=240,
        min_uptime_seconds=10,
        stop=Stop(timeout_seconds=15, order=20),
    ),
    # The API server reads task logs from disk, so the workers need no log servers, which would bind every interface.
    _build_worker("scheduler", 90, "scheduler", "--skip-serve-logs", stop_seconds=30),
    _build_worker("dag-processor", 100, "dag_processor", stop_seconds=15),
    _build_worker("triggerer", 110, "triggerer", "--skip-serve-logs", stop_seconds=15),
)
