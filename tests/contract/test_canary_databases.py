"""Marked texts and ids go through the failures of the databases: no error and no log has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from include.errors import ConfigurationError, PermanentError, TransientError, UnexpectedError
from include.settings import MongoSettings, Neo4jSettings, WarehouseSettings
from tests.canary import CANARY, ODD, Failure, LeakCheck, failures, find_in_logs
from tests.contract.batches import batch_of
from tests.contract.events import event, marked_event

if TYPE_CHECKING:
    from tests.contract.conftest import Servers

type Call = Callable[[], object]


@pytest.mark.servers("postgres")
class TestWarehouse:
    """PostgreSQL quotes rows in the message, the detail and the context of an error."""

    @pytest.fixture
    def database(self, warehouse_dsn: str) -> Iterator[Any]:
        from include.stores.postgres import Database

        with closing(Database(warehouse_dsn)) as database:
            database.execute("CREATE TABLE rows (id text PRIMARY KEY, at timestamptz, code varchar(3), body jsonb)")
            database.execute("INSERT INTO rows (id) VALUES (%(id)s)", {"id": ODD})
            yield database

    @staticmethod
    def _insert(database: Any, column: str, value: str) -> Call:
        return lambda: database.execute(f"INSERT INTO rows (id, {column}) VALUES ('1', %(value)s)", {"value": value})

    @staticmethod
    def _copy(database: Any, column: str, value: str) -> Call:
        import pyarrow as pa

        def copy() -> None:
            with database.transaction() as transaction:
                transaction.copy("rows", pa.table({"id": ["1", ODD + "2"], column: [None, value]}))

        return copy

    @failures(
        Failure(
            "duplicate key",
            PermanentError,
            "UniqueViolation, SQLSTATE 23505, table rows, constraint rows_pkey",
            lambda database: lambda: database.execute("INSERT INTO rows (id) VALUES (%(id)s)", {"id": ODD}),
        ),
        Failure("wrong type", PermanentError, "SQLSTATE 22007", lambda it: TestWarehouse._copy(it, "at", ODD)),
        Failure("too long", PermanentError, "SQLSTATE 22001", lambda it: TestWarehouse._copy(it, "code", ODD)),
        Failure("not JSON", PermanentError, "SQLSTATE 22P02", lambda it: TestWarehouse._insert(it, "body", ODD)),
        Failure(
            "NUL", UnexpectedError, "ValueError in ", lambda it: TestWarehouse._insert(it, "body", f"{ODD}\0"), False
        ),
        Failure(
            "surrogate",
            UnexpectedError,
            "UnicodeEncodeError",
            lambda it: TestWarehouse._insert(it, "body", f"{ODD}\ud800"),
        ),
        Failure(
            "killed session",
            TransientError,
            "AdminShutdown, SQLSTATE 57P01|closed the connection unexpectedly",
            lambda database: lambda: database.query("SELECT pg_terminate_backend(pg_backend_pid()), %(t)s", {"t": ODD}),
            False,
        ),
    )
    def test_a_statement(self, leak: LeakCheck, database: Any, failure: Failure) -> None:
        """An error has the SQLSTATE and the names of the schema, but no value."""
        leak.fails(failure.kind, failure.match, failure.provoke(database), quoted=failure.quoted)

    def test_the_sink(self, leak: LeakCheck, warehouse_dsn: str) -> None:
        """A batch that PostgreSQL refuses is not quoted."""
        from include.sinks.warehouse import WarehouseSink

        with closing(WarehouseSink(WarehouseSettings(warehouse_dsn))) as sink:
            sink.upsert(batch_of([event()]))
            refused = batch_of([marked_event(extra=f'{{"x": "{CANARY}')])
            leak.fails(PermanentError, "SQLSTATE 22P02", lambda: sink.upsert(refused))

    @pytest.mark.parametrize(
        ("dsn", "kind", "match"),
        [
            ("postgresql://warehouse:{canary}@{server}", ConfigurationError, "password authentication failed"),
            ("postgresql://{canary}:x@127.0.0.1:1/x", TransientError, "Connection refused"),
        ],
    )
    def test_a_connection(
        self, leak: LeakCheck, warehouse_dsn: str, dsn: str, kind: type[Exception], match: str
    ) -> None:
        """A refused connection has its cause, but neither the login nor the address."""
        from include.stores.postgres import Database

        address = dsn.format(canary=CANARY, server=warehouse_dsn.rpartition("@")[2])
        leak.fails(kind, match, lambda: Database(address).query("SELECT 1"), quoted=None)

    def test_the_server_logs_no_value(self, servers: Servers) -> None:
        """After these failures, the server's log has no value either."""
        assert find_in_logs(servers.stack.config, "postgres") == []


@pytest.mark.servers("mongo")
class TestMongo:
    """PyMongo quotes documents: in ``details``, in its messages, and in those of the encoder."""

    @failures(
        Failure(
            "duplicate key",
            TransientError,
            r"BulkWriteError, code 11000 \(1 documents\)",
            lambda events: lambda: events.insert_many([{"_id": ODD, "text": ODD}, {"_id": ODD}]),
        ),
        Failure(
            "wrong type",
            PermanentError,
            "InvalidDocument",
            lambda events: lambda: events.insert_one({"text": {ODD}}),
        ),
        Failure(
            "NUL in a name",
            PermanentError,
            "InvalidDocument",
            lambda events: lambda: events.insert_one({f"{ODD}\0": 1}),
        ),
        Failure(
            "surrogate",
            UnexpectedError,
            "UnicodeEncodeError",
            lambda events: lambda: events.insert_one({"text": f"{ODD}\ud800"}),
        ),
        Failure(
            "integer out of range",
            UnexpectedError,
            "OverflowError",
            lambda events: lambda: events.insert_one({"text": ODD, "value": 2**64}),
            None,
        ),
        Failure(
            "oversized document",
            (PermanentError, TransientError),
            "MongoDB: ",
            lambda events: lambda: events.insert_many([{"_id": ODD, "text": ODD + "x" * 17_000_000}]),
            None,
        ),
        Failure(
            "unknown command",
            PermanentError,
            "OperationFailure, code 59",
            lambda events: lambda: events.database.command(CANARY, ODD),
        ),
    )
    def test_a_command(self, leak: LeakCheck, mongo_settings: MongoSettings, failure: Failure) -> None:
        """An error has codes and counts, but no document."""
        from include.stores.mongo import events_collection, translate_errors

        events = events_collection(mongo_settings)

        def call() -> None:
            with translate_errors():
                failure.provoke(events)()

        with closing(events.database.client):
            leak.fails(failure.kind, failure.match, call, quoted=failure.quoted)

    def test_a_second_unique_index(self, leak: LeakCheck, mongo_settings: MongoSettings) -> None:
        """A batch refused by an index that somebody added is not quoted."""
        from include.sinks.mongo import MongoSink
        from include.stores.mongo import events_collection

        events = events_collection(mongo_settings)
        events.create_index("text", unique=True)
        batch = batch_of([marked_event(), marked_event(message_id=f"{ODD}2")])
        with closing(events.database.client), closing(MongoSink(mongo_settings)) as sink:
            leak.fails(TransientError, "another unique index", lambda: sink.upsert(batch), quoted=None)

    @pytest.mark.parametrize(
        ("uri", "kind"),
        [
            ("mongodb://127.0.0.1:1/?timeoutMS=1000", TransientError),
            (f"mongodb://{CANARY}:a/b@127.0.0.1", PermanentError),
            (f"mongodb://127.0.0.1:{CANARY}", ConfigurationError),
        ],
    )
    def test_a_connection(self, leak: LeakCheck, uri: str, kind: type[Exception]) -> None:
        """Neither the address nor the documents of a lost call are quoted."""
        from include.sinks.mongo import MongoSink

        def call() -> None:
            with closing(MongoSink(MongoSettings(uri))) as sink:
                sink.upsert(batch_of([marked_event()]))

        leak.fails(kind, "MongoDB", call, quoted=None)

    def test_the_server_logs_no_value(self, servers: Servers) -> None:
        """After these failures, the server's log has no value either."""
        assert find_in_logs(servers.stack.config, "mongo") == []


@pytest.mark.servers("neo4j")
class TestNeo4j:
    """Neo4j quotes properties and parameters."""

    @failures(
        Failure(
            "duplicate key",
            TransientError,
            "ConstraintError, Neo.ClientError.Schema.ConstraintValidationFailed",
            lambda write: lambda: write("UNWIND $rows AS id CREATE (:User {id: id})", [ODD, ODD]),
        ),
        Failure(
            "wrong type",
            PermanentError,
            "Neo.ClientError.Statement.TypeError",
            lambda write: lambda: write("UNWIND $rows AS id MERGE (:User {id: id})", [{"a": ODD}]),
        ),
        Failure(
            "not a number",
            PermanentError,
            "Neo.ClientError.Statement",
            lambda write: lambda: write("UNWIND $rows AS id RETURN date(id)", [ODD]),
        ),
        Failure(
            "value that the driver cannot encode",
            UnexpectedError,
            "in ",
            lambda write: lambda: write("UNWIND $rows AS id MERGE (:User {id: id})", [f"{ODD}\ud800"]),
        ),
    )
    def test_a_transaction(self, leak: LeakCheck, neo4j_settings: Neo4jSettings, failure: Failure) -> None:
        """An error has its code, but no value."""
        from include.sinks.neo4j import Neo4jSink
        from include.stores.neo4j import translate_errors, write

        with closing(Neo4jSink(neo4j_settings)) as sink:
            sink.prepare()

            def run(statement: str, rows: list[Any]) -> None:
                with translate_errors(), sink._session() as session:
                    session.execute_write(write, statement, rows)

            leak.fails(failure.kind, failure.match, failure.provoke(run), quoted=failure.quoted)

    def test_a_wrong_password(self, leak: LeakCheck, neo4j_settings: Neo4jSettings) -> None:
        """Neither the password nor the rows of the refused call are quoted."""
        from include.sinks.neo4j import Neo4jSink

        with closing(Neo4jSink(Neo4jSettings(neo4j_settings.uri, password=CANARY))) as sink:
            leak.fails(
                PermanentError, "Security.Unauthorized", lambda: sink.upsert(batch_of([marked_event()])), quoted=None
            )

    def test_the_server_logs_no_value(self, servers: Servers) -> None:
        """After these failures, the server's log has no value either."""
        assert find_in_logs(servers.stack.config, "neo4j") == []
