"""The MongoDB-protocol server: SecantusDB, a stand-in for local use. See docs/adr/0013."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from include.errors import ConfigurationError
from stack.config import LOOPBACK, LocalConfig
from stack.credentials import write_private
from stack.private import create_folder
from stack.server import Context, Launch, Server, Stop, python_environment


def _uri(config: LocalConfig) -> str:
    return f"mongodb://{config.address('mongo')}/"


def _prepare(context: Context) -> None:
    config = context.config
    folder = config.data("mongo")
    if (folder / "store.mv").exists():
        raise ConfigurationError(
            f"{folder} has data of an older version's MongoDB server, which this version cannot read: run make reset"
        )
    create_folder(folder)
    settings: dict[str, dict[str, object]] = {
        "server": {
            "host": LOOPBACK,
            "port": config.ports["mongo"],
            "storage_path": str(folder),
            # Its warnings and tracebacks may quote commands.
            "log_level": "ERROR",
        },
        "storage": {
            "cache_size": "256M",
            # Without it, a killed server loses acknowledged writes.
            "sync_on_commit": True,
        },
        # Nobody reads it here.
        "oplog": {"max_entries": 1_000},
    }
    write_private(config.run / "mongo.toml", _format_toml(settings))


def _format_toml(sections: Mapping[str, Mapping[str, object]]) -> str:
    # TOML's strings, numbers and booleans are written as in JSON.
    lines = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    return "".join(f"{line}\n" for line in lines)


def _launch(context: Context) -> Launch:
    config = context.config
    command = (sys.executable, "-m", "secantus", "--config", str(config.run / "mongo.toml"))
    return Launch(command, config.run, python_environment(config))


def _check_health(context: Context) -> None:
    """A write, because a server whose disk was full still responds to everything else."""
    from pymongo import MongoClient

    with MongoClient[dict[str, object]](_uri(context.config), serverSelectionTimeoutMS=2000, timeoutMS=5000) as client:
        client["stack"]["health"].update_one({"_id": "write"}, {"$inc": {"checks": 1}}, upsert=True)


SERVERS = (
    Server(
        name="mongo",
        priority=50,
        ports={"mongo": 17017},
        packages=("pymongo", "secantus"),
        client_variables=lambda config, _: {"MILLRACE_MONGO_URI": _uri(config)},
        connections=lambda config, _: {"mongo_default": {"host": LOOPBACK, "port": config.ports["mongo"]}},
        prepare=_prepare,
        launch=_launch,
        check_health=_check_health,
        start_timeout_seconds=60,
        min_uptime_seconds=2,
        stop=Stop(timeout_seconds=20),
    ),
)
