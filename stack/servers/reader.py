"""The reader: the endpoint that serves recommendations from Redis."""

from __future__ import annotations

import sys

from stack.config import LOOPBACK, PROJECT
from stack.probe import http_get
from stack.server import Context, Launch, Server, Stop, python_environment
from stack.servers.redis import redis_url


def _launch(context: Context) -> Launch:
    environment = python_environment(
        context.config,
        MILLRACE_READER_HOST=LOOPBACK,
        MILLRACE_READER_PORT=str(context.config.ports["reader"]),
        MILLRACE_REDIS_URL=redis_url(context.config, context.secrets),
    )
    return Launch((sys.executable, "-m", "include.serving"), PROJECT, environment)


def _check_health(context: Context) -> None:
    http_get(f"http://{context.config.address('reader')}/healthz")


SERVERS = (
    Server(
        name="reader",
        priority=120,
        ports={"reader": 18000},
        client_variables=lambda config, _: {"MILLRACE_READER_URL": f"http://{config.address('reader')}"},
        launch=_launch,
        check_health=_check_health,
        needs=("redis",),
        start_timeout_seconds=60,
        min_uptime_seconds=4,
        stop=Stop(timeout_seconds=10, order=15),
    ),
)
