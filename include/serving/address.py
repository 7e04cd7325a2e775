"""Where Redis is and how to log in there, from a URL."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from include.errors import ConfigurationError

_FORMS = "redis://[user]:[password]@host:port/db, rediss:// for TLS, or unix://[user]:[password]@/path?db=0"


@dataclass(frozen=True)
class Address:
    """A Redis: ``path`` is that of a Unix socket, else it is reached at ``host`` and ``port``."""

    host: str = "127.0.0.1"
    port: int = 6379
    path: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    db: int = 0
    tls: ssl.SSLContext | None = None

    @classmethod
    def from_url(cls, url: str) -> Address:
        """Raises ``ConfigurationError`` for what is no such URL; the message never repeats it, for its password."""
        try:
            return _parsed(url)
        except (ValueError, OSError) as exc:
            raise ConfigurationError(f"MILLRACE_REDIS_URL must look like {_FORMS}; {_reason(exc)}") from None

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


def _parsed(url: str) -> Address:
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("its scheme is another")
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    is_socket = parts.scheme == "unix"
    if is_socket and not parts.path:
        raise ValueError("it names no socket")
    db = query.get("db", "" if is_socket else parts.path.strip("/")) or "0"
    if not (db.isascii() and db.isdigit()):
        raise ValueError("its database is not a number")
    return Address(
        host=parts.hostname or Address.host,
        port=parts.port or Address.port,
        path=unquote(parts.path) if is_socket else "",
        username=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        db=int(db),
        # Certificate and name are always verified; a private authority is named by ssl_ca_certs in the URL.
        tls=ssl.create_default_context(cafile=query.get("ssl_ca_certs")) if parts.scheme == "rediss" else None,
    )


def _reason(exc: Exception) -> str:
    if isinstance(exc, OSError):
        return "its ssl_ca_certs cannot be read"
    # urlsplit's own messages may repeat parts of the URL
    return str(exc) if str(exc).startswith("its ") or str(exc).startswith("it ") else "its port is not a number"
