"""Airflow's four processes. They share one environment, and the metadata database in our PostgreSQL.

``airflow standalone`` is not used: it leaves its children behind when it is ended, and lets tasks start before the
API they report to listens.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from include.errors import TransientError
from stack import airflow_settings, records
from stack.config import LOOPBACK, PROJECT, LocalConfig
from stack.credentials import write_private
from stack.environment import AIRFLOW_USER, airflow_url, client_environment
from stack.probe import http_get_json
from stack.server import Context, Launch, Server, Stop, python_environment
from stack.servers.postgres import dsn

SEED = PROJECT / "scripts" / "seed_airflow.py"

#: Of the client's environment, what is read while a DAG is parsed; all else tasks get from connections.
_FOR_DAGS = ("MILLRACE_HOME", "MILLRACE_SHARDS", "MILLRACE_BATCH_PATH")


def home(config: LocalConfig) -> Path:
    return config.home / "airflow"


def environment(context: Context) -> dict[str, str]:
    """What every process of Airflow gets, a command of the user's as well. ``extra_environment`` wins."""
    config = context.config
    client = client_environment(config)
    sections = {
        "CORE": _core(context),
        "DATABASE": {
            "SQL_ALCHEMY_CONN": dsn(context, "airflow").replace("postgresql://", "postgresql+psycopg2://", 1),
            "LOAD_DEFAULT_CONNECTIONS": "False",
        },
        "API": {
            "HOST": LOOPBACK,
            "PORT": str(config.ports["airflow"]),
            "BASE_URL": airflow_url(config),
            "SECRET_KEY": context.secrets.airflow_api_secret,
            "WORKERS": "1",
        },
        "API_AUTH": {"JWT_SECRET": context.secrets.airflow_jwt_secret},
        "WORKERS": {"EXECUTION_API_RETRIES": "10"},
        # Parsing costs seconds of CPU, and our DAG files do not change by themselves.
        "DAG_PROCESSOR": {"MIN_FILE_PROCESS_INTERVAL": "300", "PARSING_PROCESSES": "1"},
        # After a kill, what ran is found and tried again within a minute instead of five.
        "SCHEDULER": {"ORPHANED_TASKS_CHECK_INTERVAL": "30", "TASK_INSTANCE_HEARTBEAT_TIMEOUT": "120"},
        "LOGGING": {"BASE_LOG_FOLDER": str(home(config) / "logs")},
        "USAGE_DATA_COLLECTION": {"ENABLED": "False"},
    }
    flat = {f"AIRFLOW__{name}__{key}": value for name, keys in sections.items() for key, value in keys.items()}
    ours = {name: client[name] for name in _FOR_DAGS}
    return python_environment(config, AIRFLOW_HOME=str(home(config)), **_LIBRARIES, **ours, **flat)


#: A task has one core; more threads than that only slow the servers beside it down.
_LIBRARIES = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "GX_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "SCARF_ANALYTICS": "false",
}


def _core(context: Context) -> dict[str, str]:
    config = context.config
    return {
        "DAGS_FOLDER": str(config.dags_folder),
        "PLUGINS_FOLDER": str(config.plugins_folder),
        "LOAD_EXAMPLES": "False",
        "DAGS_ARE_PAUSED_AT_CREATION": "False",
        "EXECUTOR": "LocalExecutor",
        "PARALLELISM": str(config.parallelism),
        "FERNET_KEY": context.secrets.airflow_fernet_key,
        # It does not follow API__PORT by itself.
        "EXECUTION_API_SERVER_URL": f"{airflow_url(config)}/execution/",
        "SIMPLE_AUTH_MANAGER_USERS": f"{AIRFLOW_USER}:admin",
        "SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home(config) / "passwords.json"),
    }


def _launch(context: Context, *arguments: str) -> Launch:
    return Launch((sys.executable, "-m", "airflow", *arguments), PROJECT, environment(context))


def _seed(context: Context) -> None:
    """Migrate the metadata database and write connections, pools and variables, unless all that is as it was."""
    config = context.config
    folder = home(config)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    config.batches.mkdir(parents=True, exist_ok=True)
    write_private(folder / "passwords.json", json.dumps({AIRFLOW_USER: context.secrets.airflow_admin}))
    wanted = json.dumps(airflow_settings.seeds(config, context.secrets), indent=1)
    done = folder / "seeded.json"
    if done.exists() and done.read_text(encoding="utf-8") == wanted:
        return
    context.note("preparing the metadata database")
    asked = config.run / "seeds.json"
    write_private(asked, wanted)
    context.run("api-server", Launch((sys.executable, str(SEED), str(asked)), PROJECT, environment(context)))
    asked.replace(done)


def _api_answers(context: Context) -> None:
    _component(context, "metadatabase")


def _component(context: Context, name: str) -> dict[str, object]:
    health = http_get_json(f"{airflow_url(context.config)}/api/v2/monitor/health", seconds=5)
    found = health.get(name)
    if not isinstance(found, dict) or found.get("status") != "healthy":
        raise TransientError(f"Airflow says of {name}: {found}")
    return found


def _beats(context: Context, server: str, component: str) -> None:
    """Whether a process without a port has sent a heartbeat since it was started."""
    record = records.path(context.config.run, server)
    beat = _component(context, component).get(f"latest_{component}_heartbeat")
    started = datetime.fromtimestamp(record.stat().st_mtime, UTC)
    if not isinstance(beat, str) or datetime.fromisoformat(beat) < started:
        raise TransientError(f"{server} has sent no heartbeat yet")


def _worker(name: str, component: str, *options: str, seconds: int) -> Server:
    launch: Callable[[Context], Launch] = lambda context: _launch(context, name, *options)  # noqa: E731
    return Server(
        name=name,
        ports=(),
        launch=launch,
        answers=partial(_beats, server=name, component=component),
        needs=("api-server",),
        settle_seconds=10,
        stop=Stop(seconds=seconds, order=10),
    )


API_SERVER = Server(
    name="api-server",
    ports=("airflow",),
    prepare=_seed,
    launch=lambda context: _launch(
        context, "api-server", "--host", LOOPBACK, "--port", str(context.config.ports["airflow"])
    ),
    answers=_api_answers,
    needs=("postgres",),
    start_seconds=240,
    settle_seconds=10,
    stop=Stop(seconds=15, order=20),
)

#: Logs are read from disk by the API server beside them: no log servers, which would listen everywhere.
SCHEDULER = _worker("scheduler", "scheduler", "--skip-serve-logs", seconds=30)
DAG_PROCESSOR = _worker("dag-processor", "dag_processor", seconds=15)
TRIGGERER = _worker("triggerer", "triggerer", "--skip-serve-logs", seconds=15)
