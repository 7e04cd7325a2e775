"""Milvus 2.3.5: the real standalone engine from its wheel, started directly so that signals reach it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from stack.config import LOOPBACK, LocalConfig
from stack.credentials import write_private
from stack.private import create_folder, create_owned_folder
from stack.server import Context, Launch, Server, Stop

#: Defaults stay off the usual ports, so that a real Milvus on this machine does not get in the way.
_PORTS = {
    "milvus": 19630,
    "milvus_internal": 19631,
    "milvus_etcd": 19632,
    "milvus_etcd_peer": 19633,
    "milvus_metrics": 19634,
    "milvus_root_coord": 19635,
    "milvus_query_coord": 19636,
    "milvus_query_node": 19637,
    "milvus_index_node": 19638,
    "milvus_data_coord": 19639,
    "milvus_data_node": 19640,
}
#: The sections of milvus.yaml and the port that each listens on.
_ROLES = {
    "rootCoord": "milvus_root_coord",
    "proxy": "milvus",
    "queryCoord": "milvus_query_coord",
    "queryNode": "milvus_query_node",
    "indexNode": "milvus_index_node",
    "dataCoord": "milvus_data_coord",
    "dataNode": "milvus_data_node",
}
#: The engine writes files with predictable names to this folder, whatever the configuration says.
_FIXED_FOLDER = Path("/tmp/milvus")  # noqa: S108 (its name is not ours to choose)


def engine_folder(config: LocalConfig) -> Path:
    """Where the engine is unpacked: next to the jars, once for all homes."""
    from milvus import __version__

    return config.jar_cache / f"milvus-{__version__}"


def _unpack(context: Context) -> None:
    from milvus import _initialize_data_files

    target = engine_folder(context.config)
    if target.exists():
        return
    context.report_progress("unpacking the engine")
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    _initialize_data_files(str(partial))
    try:
        partial.rename(target)
    except OSError:
        # Another stack was faster. Its copy is complete, because it was renamed too.
        if not target.exists():
            raise


def _read_template() -> dict[str, Any]:
    """The engine's own configuration, with the defaults that its own wrapper would fill in."""
    import milvus
    import yaml

    text = (Path(milvus.__file__).parent / "data" / "config.yaml.template").read_text(encoding="utf-8")
    filled = re.sub(r"\{\{[^}:]*(?::\s*([^}]*?))?\s*\}\}", lambda match: match.group(1) or '""', text)
    content: dict[str, Any] = yaml.safe_load(filled)
    return content


def _build_configuration(config: LocalConfig) -> dict[str, Any]:
    content = _read_template()
    data = config.data("milvus")
    for section, port in _ROLES.items():
        content[section] |= {"ip": LOOPBACK, "port": config.ports[port]}
    content["proxy"]["internalPort"] = config.ports["milvus_internal"]
    content["etcd"] |= {
        "endpoints": config.address("milvus_etcd"),
        "config": {"path": str(config.run / "milvus" / "configs" / "etcd.yaml")},
        "log": {"level": "warn", "path": "stdout"},
        "data": {"dir": str(data / "etcd")},
    }
    content["localStorage"]["path"] = str(data)
    content["rocksmq"]["path"] = str(data / "rocksmq")
    # Warnings quote the filters of failed requests, and with them the ids of users.
    content["log"] |= {"level": "error", "file": {"rootPath": ""}}
    # By default a stop may take half an hour.
    content["common"]["gracefulStopTimeout"] = 3
    return content


def _build_etcd_configuration(config: LocalConfig) -> dict[str, Any]:
    client, peer = (f"http://{config.address(name)}" for name in ("milvus_etcd", "milvus_etcd_peer"))
    return {
        "name": "default",
        "data-dir": str(config.data("milvus") / "etcd"),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"default={peer}",
        "log-level": "warn",
        "log-outputs": ["stderr"],
        "auto-compaction-mode": "revision",
        "auto-compaction-retention": "1000",
    }


def _prepare(context: Context) -> None:
    import yaml

    config = context.config
    create_owned_folder(_FIXED_FOLDER, 0o700, "ask that user to: Milvus has no setting for this path")
    _unpack(context)
    create_folder(config.data("milvus"))
    folder = config.run / "milvus" / "configs"
    write_private(folder / "milvus.yaml", yaml.safe_dump(_build_configuration(config)))
    write_private(folder / "etcd.yaml", yaml.safe_dump(_build_etcd_configuration(config)))
    write_private(folder / "glog.conf", "--logtostderr=true\n--minloglevel=1\n")


def _launch(context: Context) -> Launch:
    config = context.config
    binaries = engine_folder(config) / "bin"
    library_path = "DYLD_LIBRARY_PATH" if sys.platform == "darwin" else "LD_LIBRARY_PATH"
    return Launch(
        (*_loopback_guard(), str(binaries / "milvus"), "run", "standalone"),
        config.run / "milvus",
        {
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(config.ports["milvus_metrics"]),
            "MILVUSCONF": str(config.run / "milvus" / "configs"),
            # This version always panics when it is asked to stop: spare the log the stacks of all its threads.
            "GOTRACEBACK": "none",
            library_path: str(binaries),
        },
    )


def _loopback_guard() -> tuple[str, ...]:
    """The engine has no setting for the address it listens on. On Linux, a small parent process enforces it."""
    if sys.platform != "linux":
        return ()
    return (sys.executable, "-I", "-S", str(Path(__file__).parents[1] / "loopback.py"))


def _check_health(context: Context) -> None:
    from pymilvus import MilvusClient

    client = MilvusClient(f"http://{context.config.address('milvus')}", timeout=3)
    try:
        client.list_collections(timeout=3)
    finally:
        client.close()


SERVERS = (
    Server(
        name="milvus",
        priority=30,
        ports=_PORTS,
        packages=("milvus", "pymilvus", "yaml"),
        client_variables=lambda config, _: {"MILLRACE_MILVUS_URI": f"http://{config.address('milvus')}"},
        connections=lambda config, _: {"milvus_default": {"host": LOOPBACK, "port": config.ports["milvus"]}},
        prepare=_prepare,
        launch=_launch,
        check_health=_check_health,
        start_timeout_seconds=180,
        min_uptime_seconds=6,
        stop=Stop(timeout_seconds=20),
    ),
)
