"""The endpoint that serves the recommendations from Redis."""

from __future__ import annotations

import sys

from stack.config import LOOPBACK, PROJECT
from stack.environment import redis_url
from stack.probe import http_get
from stack.server import Context, Launch, Server, Stop, python_environment


def _launch(context: Context) -> Launch:
    environment = python_environment(
        context.config,
        MILLRACE_READER_HOST=LOOPBACK,
        MILLRACE_READER_PORT=str(context.config.ports["reader"]),
        MILLRACE_REDIS_URL=redis_url(context.config, context.secrets),
    )
    return Launch((sys.executable, "-m", "include.serving"), PROJECT, environment)


def _answers(context: Context) -> None:
    http_get(f"http://{context.config.address('reader')}/healthz")


SERVER = Server(
    name="reader",
    ports=("reader",),
    launch=_launch,
    answers=_answers,
    needs=("redis",),
    start_seconds=60,
    settle_seconds=4,
    stop=Stop(seconds=10, order=15),
)
