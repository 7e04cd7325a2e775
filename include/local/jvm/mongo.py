"""The MongoDB-protocol server: ``python -m include.local.jvm.mongo SETTINGS``.

A stand-in for local use, with its data on disk. It says of itself what current MongoDB drivers ask for.
"""

from __future__ import annotations

from typing import Any

from include.local.jvm.host import Settings, read_settings, serve_until_told, start_jvm

#: PyMongo 4.20 refuses servers below wire version 8 (MongoDB 4.2); the server as shipped says less than it can do.
_VERSION = (6, 0, 0)
_WIRE_VERSION = 17


def _version() -> Any:
    import jpype

    numbers = jpype.JClass("java.util.ArrayList")()
    for number in (*_VERSION, 0):
        numbers.add(jpype.JClass("java.lang.Integer")(number))
    methods = {
        "getVersionArray": lambda: numbers,
        "toVersionString": lambda: ".".join(str(number) for number in _VERSION),
        "getWireVersion": lambda: _WIRE_VERSION,
    }
    return jpype.JProxy("de.bwaldvogel.mongo.MongoVersion", dict=methods)


class _Durable:
    """A MongoBackend that answers only when what it did is in the file, as ``j: true`` asks of a real server.

    Left to itself the store writes in the background: a killed process loses what it had already acknowledged. And
    its background thread tidies the file up under running reads, which then fail with "Chunk not found".
    """

    def __init__(self, backend: Any, store: Any) -> None:
        self._backend = backend
        self._store = store

    def handleMessage(self, message: Any) -> Any:  # noqa: N802 (Java's name)
        """Called from the server's threads, for every command of a current driver."""
        reply = self._backend.handleMessage(message)
        if self._store.hasUnsavedChanges():
            self._store.commit()
        return reply

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def _open_store(settings: Settings) -> Any:
    import jpype

    store = jpype.JClass("org.h2.mvstore.MVStore").Builder().fileName(settings["file"]).open()
    store.setAutoCommitDelay(0)
    return store


def main() -> None:
    settings = read_settings()
    start_jvm(settings)
    import jpype

    store = _open_store(settings)
    backend = jpype.JClass("de.bwaldvogel.mongo.backend.h2.H2Backend")(store).version(_version())
    durable = jpype.JProxy("de.bwaldvogel.mongo.MongoBackend", inst=_Durable(backend, store))
    server = jpype.JClass("de.bwaldvogel.mongo.MongoServer")(durable)
    server.bind(settings["host"], settings["port"])
    print(f"listening on {settings['host']}:{settings['port']}, data in {settings['file']}", flush=True)

    def close() -> None:
        server.shutdown()
        if not store.isClosed():
            store.close()
        print("stopped", flush=True)

    serve_until_told(close)


if __name__ == "__main__":
    main()
