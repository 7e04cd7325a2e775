"""The embedding server of ours: the model, kept warm, behind the OpenAI embeddings protocol."""

from __future__ import annotations

import sys

from stack.config import LOOPBACK, PROJECT
from stack.probe import http_get
from stack.server import Context, Launch, Server, Stop, python_environment


def _launch(context: Context) -> Launch:
    environment = python_environment(
        context.config,
        MILLRACE_EMBED_SERVER_HOST=LOOPBACK,
        MILLRACE_EMBED_SERVER_PORT=str(context.config.ports["embed"]),
        MILLRACE_EMBED_API_KEY=context.secrets.embed_api_key,
        # The model is on disk: nothing is looked up, nothing is reported.
        HF_HUB_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        TOKENIZERS_PARALLELISM="false",
        MALLOC_ARENA_MAX="2",
    )
    return Launch((sys.executable, "-m", "include.embedding_server"), PROJECT, environment)


def _answers(context: Context) -> None:
    http_get(f"http://{context.config.address('embed')}/health")


SERVER = Server(
    name="embed",
    ports=("embed",),
    launch=_launch,
    answers=_answers,
    # The imports alone may take half a minute on a busy machine.
    start_seconds=240,
    settle_seconds=8,
    stop=Stop(seconds=10, order=25),
)
