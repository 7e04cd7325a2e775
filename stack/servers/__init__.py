"""Every local server, a file each; this list is the order of priority in which they are started."""

from __future__ import annotations

from collections.abc import Iterable

from include.errors import ConfigurationError
from stack.server import Server
from stack.servers import airflow, embed, kafka, milvus, mongo, neo4j, postgres, reader, redis

SERVERS: tuple[Server, ...] = (
    postgres.SERVER,
    neo4j.SERVER,
    milvus.SERVER,
    kafka.SERVER,
    mongo.SERVER,
    redis.SERVER,
    airflow.API_SERVER,
    embed.SERVER,
    airflow.SCHEDULER,
    airflow.DAG_PROCESSOR,
    airflow.TRIGGERER,
    reader.SERVER,
)


def choose(names: Iterable[str] | None) -> list[Server]:
    """The servers of these names and what they need, in order of priority; all of them for ``None``."""
    if names is None:
        return list(SERVERS)
    known = {server.name: server for server in SERVERS}
    wanted: set[str] = set()
    open_names = list(names)
    while open_names:
        name = open_names.pop()
        if name not in known:
            raise ConfigurationError(f"there is no server {name!r}; there are: {', '.join(known)}")
        if name not in wanted:
            wanted.add(name)
            open_names.extend(known[name].needs)
    return [server for server in SERVERS if server.name in wanted]
