"""The fields of an Airflow connection as the parts of an address, for tasks and the triggerer alike."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlencode

from airflow.sdk import Connection

from include.errors import ConfigurationError
from include.settings import WarehouseSettings
from include.settings_parser import option_text


def host_of(connection: Connection) -> str:
    """``host`` or ``host:port``. Raises ``ConfigurationError`` if the connection has no host."""
    if not connection.host:
        conn_id = connection.conn_id
        raise ConfigurationError(
            f"connection {conn_id} has no host: set it in Airflow or as AIRFLOW_CONN_{conn_id.upper()}"
        )
    return f"{connection.host}:{connection.port}" if connection.port else str(connection.host)


def login_of(connection: Connection) -> str:
    """``user:password@``, or nothing for a connection without a login."""
    if not connection.login:
        return ""
    return f"{quote(connection.login, safe='')}:{quote(connection.password or '', safe='')}@"


def build_query(options: Mapping[str, object]) -> str:
    """Options as a URI query. Spaces are percent-encoded: libpq would read a plus sign literally."""
    texts = {name: option_text(value) for name, value in options.items()}
    return f"?{urlencode(texts, quote_via=quote)}" if texts else ""


def warehouse_settings(connection: Connection) -> WarehouseSettings:
    """A postgres connection; ``schema`` is the database, ``extra`` holds libpq options."""
    address = f"{login_of(connection)}{host_of(connection)}/{connection.schema or 'warehouse'}"
    return WarehouseSettings(f"postgresql://{address}{build_query(connection.extra_dejson)}")
