"""The MongoDB-protocol server: ``python -m stack.jvm.mongo SETTINGS``.

A stand-in for local use, with its data on disk. It says of itself what current MongoDB drivers ask for.
"""

from __future__ import annotations

from typing import Any

from stack.jvm.host import Settings, read_settings, serve_until_told, start_jvm

#: PyMongo 4.20 refuses servers below wire version 8 (MongoDB 4.2); the server as shipped says less than it can do.
_VERSION = (6, 0, 0)
_WIRE_VERSION = 17

#: The server's way of writing down the pipeline of ``count_documents({})``.
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
    """A MongoBackend that mends two things of the one it holds.

    It answers only when what it did is in the file, as ``j: true`` asks of a real server. Left to itself the store
    writes in the background: a killed process loses what it had already acknowledged, and the background thread
    tidies the file up under running reads, which then fail with "Chunk not found".

    And it counts a whole collection by what the collection knows, instead of reading every document into memory.
    """

    def __init__(self, backend: Any, store: Any) -> None:
        self._backend = backend
        self._store = store

    def handleMessage(self, message: Any) -> Any:  # noqa: N802 (Java's name)
        """Called from the server's threads, for every command of a current driver."""
        command = message.getDocument()
        if _counts_all(command):
            return self._counted(message, command)
        reply = self._backend.handleMessage(message)
        if self._store.hasUnsavedChanges():
            self._store.commit()
        return reply

    def _counted(self, message: Any, command: Any) -> Any:
        import jpype

        document, channel = jpype.JClass("de.bwaldvogel.mongo.bson.Document"), message.getChannel()
        database, collection = message.getDatabaseName(), command.get("aggregate")
        number = self._backend.handleCommand(channel, database, "count", document("count", collection)).get("n")
        found = jpype.JClass("java.util.ArrayList")()
        if number:
            found.add(document("_id", jpype.JInt(1)).append("n", number))
        cursor = document("id", jpype.JLong(0)).append("ns", f"{database}.{collection}").append("firstBatch", found)
        return document("cursor", cursor).append("ok", jpype.JDouble(1.0))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def _counts_all(command: Any) -> bool:
    """Whether it is what drivers send for ``count_documents({})``."""
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
    mended = jpype.JProxy("de.bwaldvogel.mongo.MongoBackend", inst=_Backend(backend, store))
    server = jpype.JClass("de.bwaldvogel.mongo.MongoServer")(mended)
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
