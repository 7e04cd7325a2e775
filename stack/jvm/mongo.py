"""The MongoDB-protocol server: ``python -m stack.jvm.mongo SETTINGS``.

A stand-in for local use, with its data on disk. It reports the version that current MongoDB drivers require.
See docs/adr/0013.
"""

from __future__ import annotations

from typing import Any

from stack.jvm.host import Settings, read_settings, serve_until_stopped, start_jvm

#: PyMongo 4.20 rejects servers below wire version 8 (MongoDB 4.2). By default this one reports less than it can do.
_VERSION = (6, 0, 0)
_WIRE_VERSION = 17

#: The pipeline of ``count_documents({})``, as the server prints it.
_COUNT_ALL = '[{"$match" : {}}, {"$group" : {"_id" : 1, "n" : {"$sum" : 1}}}]'


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


class _Backend:
    """Wraps a MongoBackend to fix two of its faults.

    It replies only after the change is in the file, as ``j: true`` requires of a real server. By default the store
    writes in the background: a killed process loses acknowledged writes, and the background thread compacts the file
    under running reads, which then fail with "Chunk not found".

    It counts a whole collection from the collection's own count instead of reading every document into memory.
    """

    def __init__(self, backend: Any, store: Any) -> None:
        self._backend = backend
        self._store = store

    def handleMessage(self, message: Any) -> Any:  # noqa: N802 (Java's name)
        """Called by the server's threads for every command of a current driver."""
        command = message.getDocument()
        if _counts_all(command):
            return self._count(message, command)
        reply = self._backend.handleMessage(message)
        if self._store.hasUnsavedChanges():
            self._store.commit()
        return reply

    def _count(self, message: Any, command: Any) -> Any:
        import jpype

        document, channel = jpype.JClass("de.bwaldvogel.mongo.bson.Document"), message.getChannel()
        database, collection = message.getDatabaseName(), command.get("aggregate")
        number = self._backend.handleCommand(channel, database, "count", document("count", collection)).get("n")
        batch = jpype.JClass("java.util.ArrayList")()
        if number:
            batch.add(document("_id", jpype.JInt(1)).append("n", number))
        cursor = document("id", jpype.JLong(0)).append("ns", f"{database}.{collection}").append("firstBatch", batch)
        return document("cursor", cursor).append("ok", jpype.JDouble(1.0))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def _counts_all(command: Any) -> bool:
    """Whether a driver sent the command for ``count_documents({})``."""
    return command.containsKey("aggregate") and str(command.get("pipeline")) == _COUNT_ALL


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
    wrapped = jpype.JProxy("de.bwaldvogel.mongo.MongoBackend", inst=_Backend(backend, store))
    server = jpype.JClass("de.bwaldvogel.mongo.MongoServer")(wrapped)
    server.bind(settings["host"], settings["port"])
    print(f"listening on {settings['host']}:{settings['port']}, data in {settings['file']}", flush=True)

    def close() -> None:
        server.shutdown()
        if not store.isClosed():
            store.close()
        print("stopped", flush=True)

    serve_until_stopped(close)


if __name__ == "__main__":
    main()
