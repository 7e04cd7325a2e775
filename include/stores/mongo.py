"""MongoDB: the connection, error translation, and the document of an event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
import pyarrow as pa
from bson.datetime_ms import DatetimeMS
from bson.errors import BSONError
from pymongo import MongoClient, WriteConcern
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, ConfigurationError, OperationFailure, PyMongoError

from include import errors
from include.settings import MongoSettings

type Document = dict[str, Any]

#: Defaults; options in the URI win. ``timeoutMS`` bounds one call, including the driver's retries.
_OPTIONS: Mapping[str, Any] = {"appName": "millrace", "timeoutMS": 30_000, "connectTimeoutMS": 5_000}

DUPLICATE_KEY = 11000
#: Error codes that no retry will change: bad value, unauthorized, authentication failed, failed to parse, type
#: mismatch, command not found, invalid namespace, illegal operation, validation failed, document too large.
_PERMANENT_CODES = frozenset({2, 9, 13, 14, 18, 20, 59, 73, 121, 8000, 10334, 17280})

#: What a document alone can cause: it fails the validation of the collection, is too large, or has too long a key.
_REFUSALS = frozenset({121, 10334, 17280})

#: MongoDB reads ``$`` and ``.`` in field names as operators and paths, so they are replaced by their full-width forms,
#: which have no special meaning. A full-width character of the input is escaped by a full-width backslash.
_ESCAPE = str.maketrans({"$": "＄", ".": "．", "＄": "＼＄", "．": "＼．", "＼": "＼＼"})
_PLAIN = {"＄": "$", "．": "."}
_SPECIAL = "$.＄．＼"

_COLUMNS = ("event_id", "user_id", "message_id", "kind", "text", "item_id", "campaign_id", "value", "version", "digest")
_FIELDS = ("_id", *_COLUMNS[1:])


def events_collection(settings: MongoSettings) -> Collection[Document]:
    """The collection of events. Connects on first use; the caller closes ``.database.client``."""
    uri = settings.uri.lower()
    options = {name: value for name, value in _OPTIONS.items() if f"{name.lower()}=" not in uri}
    with translate_errors():
        try:
            client: MongoClient[Document] = MongoClient(settings.uri, **options)
        except ValueError:
            raise errors.ConfigurationError(
                "the MongoDB URI must look like mongodb://user:password@host:port/"
            ) from None
        return client.get_database(settings.database).get_collection(
            settings.collection, write_concern=WriteConcern("majority")
        )


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise driver errors as a ``TransientError`` or ``PermanentError``; unknown ones count as transient."""
    try:
        yield
    except (PyMongoError, BSONError) as exc:
        kind = errors.PermanentError if _is_permanent(exc) else errors.TransientError
        if _is_refusal(exc):
            kind = errors.RefusedError
        raise kind(f"MongoDB: {_describe(exc)}; check mongo_default and the server's log") from None


def _describe(exc: Exception) -> str:
    """The class and the codes. The message may quote documents."""
    name = type(exc).__name__
    if isinstance(exc, BulkWriteError):
        failures = [*exc.details.get("writeErrors", ()), *exc.details.get("writeConcernErrors", ())]
        codes = Counter(failure.get("code") for failure in failures)
        return ", ".join([name, *(f"code {code} ({number:,} documents)" for code, number in codes.items())])
    if isinstance(exc, OperationFailure):
        return f"{name}, code {exc.code} {(exc.details or {}).get('codeName', '')}".rstrip()
    return name


def _is_refusal(exc: Exception) -> bool:
    """Whether a document alone is the cause: it cannot be encoded, or the server rejects its content."""
    if isinstance(exc, BulkWriteError):
        return any(error["code"] in _REFUSALS for error in exc.details.get("writeErrors", ()))
    return isinstance(exc, BSONError) or (isinstance(exc, OperationFailure) and exc.code in _REFUSALS)


def _is_permanent(exc: Exception) -> bool:
    if isinstance(exc, BulkWriteError):
        return any(error["code"] in _PERMANENT_CODES for error in exc.details.get("writeErrors", ()))
    if isinstance(exc, OperationFailure):
        return exc.code in _PERMANENT_CODES
    return isinstance(exc, BSONError | ConfigurationError)


def to_documents(events: pa.Table) -> list[Document]:
    """One document per event: the cleaned input with ``_id`` = event_id. Absent fields are left out."""
    columns = [events.column(name).to_pylist() for name in _COLUMNS]
    times = events.column("occurred_at").cast(pa.int64()).to_pylist()
    extras = events.column("extra").to_pylist()
    return [
        _to_document(row, time, extra)
        for row, time, extra in zip(zip(*columns, strict=True), times, extras, strict=True)
    ]


def _to_document(row: tuple[Any, ...], occurred_at: int, extra: str | None) -> Document:
    document = {name: value for name, value in zip(_FIELDS, row, strict=True) if value is not None}
    document["occurred_at"] = DatetimeMS(occurred_at)
    if extra is not None:
        document["extra"] = escape_names(msgspec.json.decode(extra))
    return document


def escape_names(value: Any) -> Any:
    """``value`` with field names that MongoDB accepts as plain names; ``unescape_names`` is the inverse."""
    if isinstance(value, dict):
        return {_escape(name): escape_names(member) for name, member in value.items()}
    if isinstance(value, list):
        return [escape_names(member) for member in value]
    return value


def unescape_names(value: Any) -> Any:
    """The inverse of ``escape_names``."""
    if isinstance(value, dict):
        return {_unescape(name): unescape_names(member) for name, member in value.items()}
    if isinstance(value, list):
        return [unescape_names(member) for member in value]
    return value


def _escape(name: str) -> str:
    return name.translate(_ESCAPE) if any(mark in name for mark in _SPECIAL) else name


def _unescape(name: str) -> str:
    characters = iter(name)
    return "".join(next(characters) if c == "＼" else _PLAIN.get(c, c) for c in characters)
