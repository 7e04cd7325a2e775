"""Migrate Airflow's metadata database and write connections, pools and variables, all in one process.

``python scripts/seed_airflow.py SEEDS``, where SEEDS is a JSON file built by ``stack.airflow_settings.build_seeds``.
Every import of Airflow costs seconds, so one process does what would take a dozen calls of its command line. Running it
again changes nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from airflow.models import Connection, Pool, Variable
from airflow.utils.db import upgradedb
from airflow.utils.session import create_session
from sqlalchemy import delete


def main() -> None:
    seeds = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    upgradedb()
    with create_session() as session:
        for entry in seeds["connections"]:
            session.execute(delete(Connection).where(Connection.conn_id == entry["conn_id"]))
            session.add(Connection(**{**entry, "extra": json.dumps(entry["extra"])}))
    for pool in seeds["pools"]:
        Pool.create_or_update_pool(pool["name"], pool["slots"], pool["description"], include_deferred=False)
    for name, value in seeds["variables"].items():
        Variable.set(name, value)


if __name__ == "__main__":
    main()
