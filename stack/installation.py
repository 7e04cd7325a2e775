"""One installation: its configuration, secrets and client variables, put together from what the servers declare.

Every port is ``MILLRACE_PORT_<NAME>``, every heap ``MILLRACE_HEAP_<NAME>`` (``256m``, ``1g``), the folder
``MILLRACE_HOME``, the jars ``MILLRACE_JAR_CACHE``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from include.errors import ConfigurationError
from include.settings_parser import SettingsParser
from stack.config import (
    DEFAULT_HOME,
    HEAP_PREFIX,
    PORT_PREFIX,
    PROJECT,
    LocalConfig,
    find_free_ports,
    port_setting,
)
from stack.credentials import Secrets, load_or_create
from stack.private import create_folder, restrict
from stack.server import Context
from stack.servers import SERVERS, postgres

DEFAULT_PORTS: Mapping[str, int] = {name: port for server in SERVERS for name, port in server.ports.items()}
DEFAULT_HEAPS: Mapping[str, str] = {server.name: server.heap for server in SERVERS if server.heap}


def read_config(environment: Mapping[str, str], home: Path | None = None) -> LocalConfig:
    """The configuration from environment variables; ``home`` overrides ``MILLRACE_HOME``.

    Raises ``ConfigurationError`` naming the first invalid variable, or two ports with the same number.
    """
    settings = SettingsParser.from_environment(environment)
    ports = {
        name: settings.integer(f"PORT_{name.upper()}", default, 1, 65_535) for name, default in DEFAULT_PORTS.items()
    }
    _reject_duplicates(ports)
    return LocalConfig(
        home=home.expanduser().resolve() if home else settings.path("HOME", DEFAULT_HOME),
        ports=ports,
        heaps={name: _read_heap(settings, name, default) for name, default in DEFAULT_HEAPS.items()},
        jar_cache=settings.path("JAR_CACHE", DEFAULT_HOME / "jars"),
        shards=settings.integer("SHARDS", 4, 1, 4096),
        parallelism=settings.integer("PARALLELISM", 4, 1, 64),
        dags_folder=settings.path("DAGS_FOLDER", PROJECT / "dags"),
        plugins_folder=settings.path("PLUGINS_FOLDER", PROJECT / "plugins"),
        postgres_user=settings.text("POSTGRES_USER", ""),
        allow_open_ports=settings.boolean("ALLOW_OPEN_PORTS", False),
    )


def config_on_free_ports(
    home: Path,
    environment: Mapping[str, str] | None = None,
    extra_environment: Mapping[str, str] | None = None,
) -> LocalConfig:
    """A configuration that can run next to any other stack: all its ports are free, and none is ephemeral."""
    settings = {name: value for name, value in (environment or {}).items() if not name.startswith(PORT_PREFIX)}
    ports = dict(zip(DEFAULT_PORTS, find_free_ports(len(DEFAULT_PORTS)), strict=True))
    return replace(read_config(settings, home), ports=ports, extra_environment=dict(extra_environment or {}))


def create_folders(config: LocalConfig) -> None:
    """Create the home and its folders, and make everything in them private; see docs/adr/0016."""
    # Folders above the home are not part of the installation: they get the mode that the user's umask gives them.
    config.home.parent.mkdir(parents=True, exist_ok=True)
    for folder in (config.home, config.run, config.logs):
        create_folder(folder)
    restrict(postgres.installation_folders(config)[-1], postgres.service_group(config))
    postgres.grant_passage(config)


def load_secrets(config: LocalConfig) -> Secrets:
    """The secrets of all servers; generates those that are missing."""
    factories = {name: factory for server in SERVERS for name, factory in server.secrets.items()}
    return load_or_create(config.home, factories)


def build_context(config: LocalConfig) -> Context:
    """What the functions of a server may use in this installation."""
    return Context(config, load_secrets(config), SERVERS)


def client_environment(config: LocalConfig) -> dict[str, str]:
    """Every ``MILLRACE_`` variable that ``include.settings`` and the demo read. Generates missing secrets."""
    secrets = load_secrets(config)
    variables = config.client_variables
    for server in SERVERS:
        variables.update(server.client_variables(config, secrets))
    return variables


def format_shell_lines(environment: Mapping[str, str]) -> str:
    """Lines for ``eval "$(python -m stack env)"``."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())


def _read_heap(settings: SettingsParser, name: str, default: str) -> str:
    text = settings.text(f"HEAP_{name.upper()}", default)
    if not re.fullmatch(r"[1-9][0-9]*[mgMG]", text):
        raise ConfigurationError(f"{HEAP_PREFIX}{name.upper()} is {text!r}; it must look like 256m or 1g")
    return text.lower()


def _reject_duplicates(ports: Mapping[str, int]) -> None:
    seen: dict[int, str] = {}
    for name, port in ports.items():
        if port in seen:
            raise ConfigurationError(f"{port_setting(name)} and {port_setting(seen[port])} are both {port}: change one")
        seen[port] = name
