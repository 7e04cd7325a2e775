"""The address of a Redis server and the credentials to log in, parsed from a URL."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from include.errors import ConfigurationError

_FORMATS = "redis://[user]:[password]@host:port/db, rediss:// for TLS, or unix://[user]:[password]@/path?db=0"


class _InvalidUrlError(ValueError):
    """The message is safe to show: it contains no part of the URL."""


@dataclass(frozen=True)
class RedisAddress:
    """A Redis server: the Unix socket at ``path`` if that is set, otherwise ``host`` and ``port``."""

    host: str = "127.0.0.1"
    port: int = 6379
    path: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    db: int = 0
    tls: ssl.SSLContext | None = None

    @classmethod
    def from_url(cls, url: str) -> RedisAddress:
        """Raises ``ConfigurationError`` if the URL is invalid. The message never quotes it: it may hold a password."""
        try:
            return _parse(url)
        except (ValueError, OSError) as exc:
            raise ConfigurationError(f"MILLRACE_REDIS_URL must look like {_FORMATS}; {_explain(exc)}") from None

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


def _parse(url: str) -> RedisAddress:
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise _InvalidUrlError("it has an unknown scheme")
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    is_socket = parts.scheme == "unix"
    if is_socket and not parts.path:
        raise _InvalidUrlError("it names no socket")
    db = query.get("db", "" if is_socket else parts.path.strip("/")) or "0"
    if not (db.isascii() and db.isdigit()):
        raise _InvalidUrlError("its database is not a number")
    return RedisAddress(
        host=parts.hostname or RedisAddress.host,
        port=parts.port or RedisAddress.port,
        path=unquote(parts.path) if is_socket else "",
        username=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        db=int(db),
        # The certificate and host name are always verified; ssl_ca_certs in the URL names a private authority.
        tls=ssl.create_default_context(cafile=query.get("ssl_ca_certs")) if parts.scheme == "rediss" else None,
    )


def _explain(exc: Exception) -> str:
    if isinstance(exc, _InvalidUrlError):
        return str(exc)
    # Messages of urlsplit and of the operating system may quote parts of the URL.
    return "its ssl_ca_certs cannot be read" if isinstance(exc, OSError) else "its port is not a number"
