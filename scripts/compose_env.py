"""Make docker/.env, the secrets of docker-compose.airflow.yml: ``python scripts/compose_env.py``.

Every name that is empty in docker/env.example gets a random value. A file that is there is left alone. It needs no
package, so any Python 3.12 will do.
"""

from __future__ import annotations

import base64
import os
import secrets
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "docker"


def filled(example: str) -> str:
    """``example`` with a secret behind every name that has nothing behind it."""
    return "".join(f"{line}{_secret(line)}\n" for line in example.splitlines())


def _secret(line: str) -> str:
    if line.startswith("#") or not line.endswith("="):
        return ""
    if line == "AIRFLOW_FERNET_KEY=":
        return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    # Hexadecimal: it needs no quoting in an address or in JSON.
    return secrets.token_hex(64 if line == "AIRFLOW_JWT_SECRET=" else 16)


def main() -> int:
    """0 when the file was made, 1 when there is one already."""
    target = FOLDER / ".env"
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        print(f"{target} is there already: nothing was changed", file=sys.stderr)
        return 1
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(filled((FOLDER / "env.example").read_text(encoding="utf-8")))
    print(f"made {target}, readable by you alone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
