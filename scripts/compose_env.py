"""Create docker/.env, the secrets of docker-compose.airflow.yml: ``python scripts/compose_env.py``.

Every variable that is empty in docker/env.example gets a random value. An existing docker/.env is left alone. The files
that containers mount become readable for everyone, because the containers run as users of their own. Any Python 3.12
will do: standard library only.
"""

from __future__ import annotations

import base64
import os
import secrets
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "docker"
#: They contain no secret.
MOUNTED = ("embedEtcd.yaml", "postgres-init.sh")


def fill_secrets(example: str) -> str:
    """``example`` with a random secret for every variable that is empty."""
    return "".join(f"{line}{_generate_secret(line)}\n" for line in example.splitlines())


def _generate_secret(line: str) -> str:
    if line.startswith("#") or not line.endswith("="):
        return ""
    if line == "AIRFLOW_FERNET_KEY=":
        return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    # Hexadecimal needs no quoting in a URL or in JSON.
    return secrets.token_hex(64 if line == "AIRFLOW_JWT_SECRET=" else 16)


def main() -> int:
    """0 if the file was created, 1 if it already exists."""
    target = FOLDER / ".env"
    for name in MOUNTED:
        (FOLDER / name).chmod(0o644)
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        print(f"{target} already exists; nothing was changed", file=sys.stderr)
        return 1
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(fill_secrets((FOLDER / "env.example").read_text(encoding="utf-8")))
    print(f"created {target}, readable only by you")
    return 0


if __name__ == "__main__":
    sys.exit(main())
