"""The MongoDB-protocol server (mongo-java-server on H2), a stand-in for local use."""

from __future__ import annotations

from stack import java
from stack.config import LOOPBACK
from stack.server import Context, Server, Stop


def _prepare(context: Context) -> None:
    config = context.config
    folder = config.data("mongo")
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "host": LOOPBACK,
        "port": config.ports["mongo"],
        "file": str(folder / "store.mv"),
    }
    java.write_settings(context, "mongo", ("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",), values)


def _answers(context: Context) -> None:
    from pymongo import MongoClient

    uri = f"mongodb://{context.config.address('mongo')}/?retryWrites=false"
    with MongoClient[dict[str, object]](uri, serverSelectionTimeoutMS=2000) as client:
        client.admin.command("ping")


SERVER = Server(
    name="mongo",
    ports=("mongo",),
    prepare=_prepare,
    launch=lambda context: java.embedded(context, "mongo"),
    answers=_answers,
    settle_seconds=4,
    stop=Stop(seconds=20),
)
