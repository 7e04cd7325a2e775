"""Millrace's embedding server: keeps the model warm and speaks the OpenAI embeddings protocol."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from stack.config import LOOPBACK, PROJECT, LocalConfig
from stack.credentials import Secrets, random_token
from stack.probe import http_get
from stack.server import Context, Launch, Server, Stop, python_environment


def _launch(context: Context) -> Launch:
    environment = python_environment(
        context.config,
        MILLRACE_EMBED_SERVER_HOST=LOOPBACK,
        MILLRACE_EMBED_SERVER_PORT=str(context.config.ports["embed"]),
        MILLRACE_EMBED_API_KEY=context.secrets["embed_api_key"],
        # The model is on disk: no look-ups and no telemetry.
        HF_HUB_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        TOKENIZERS_PARALLELISM="false",
        MALLOC_ARENA_MAX="2",
    )
    return Launch((sys.executable, "-m", "include.embedding_server"), PROJECT, environment)


def _check_health(context: Context) -> None:
    http_get(f"http://{context.config.address('embed')}/health")


def _client_variables(config: LocalConfig, secrets: Secrets) -> Mapping[str, str]:
    return {
        "MILLRACE_EMBED_URL": f"http://{config.address('embed')}/v1",
        "MILLRACE_EMBED_API_KEY": secrets["embed_api_key"],
    }


SERVERS = (
    Server(
        name="embed",
        priority=80,
        ports={"embed": 18090},
        secrets={"embed_api_key": random_token},
        client_variables=_client_variables,
        connections=lambda config, secrets: {
            "embed_default": {"host": LOOPBACK, "port": config.ports["embed"], "password": secrets["embed_api_key"]}
        },
        launch=_launch,
        check_health=_check_health,
        # The imports alone may take half a minute on a busy machine.
        start_timeout_seconds=240,
        min_uptime_seconds=8,
        stop=Stop(timeout_seconds=10, order=25),
    ),
)
