"""Neo4j's kernel with Bolt: ``python -m stack.jvm.neo4j SETTINGS``, password in ``MILLRACE_NEO4J_PASSWORD``."""

from __future__ import annotations

import os
from typing import Any

from stack.jvm.host import Settings, read_settings, serve_until_stopped, start_jvm

_SET_PASSWORD = "ALTER USER neo4j SET PLAINTEXT PASSWORD $password CHANGE NOT REQUIRED"  # noqa: S105 (a parameter)


def _build_service(settings: Settings) -> Any:
    import jpype

    paths = jpype.JClass("java.nio.file.Paths")
    builder = jpype.JClass("org.neo4j.dbms.api.DatabaseManagementServiceBuilder")(paths.get(settings["folder"]))
    return builder.loadPropertiesFromFile(paths.get(settings["file"])).build()


def _set_password(service: Any, password: str) -> None:
    import jpype

    parameters = jpype.java.util.HashMap({"password": password})
    service.database("system").executeTransactionally(_SET_PASSWORD, parameters)


def main() -> None:
    settings = read_settings()
    start_jvm(settings)
    service = _build_service(settings)
    _set_password(service, os.environ["MILLRACE_NEO4J_PASSWORD"])
    print(f"listening as configured in {settings['file']}, data in {settings['folder']}", flush=True)

    def close() -> None:
        service.shutdown()
        print("stopped", flush=True)

    serve_until_stopped(close)


if __name__ == "__main__":
    main()
