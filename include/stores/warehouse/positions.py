"""The ledger's positions, for the trigger: imports nothing heavy, because it runs in the triggerer."""

from __future__ import annotations

from collections.abc import Mapping

from include.settings import WarehouseSettings
from include.stores.postgres import Database
from include.stores.warehouse.schema import SQL


class PositionReader:
    """Connects on first use. The caller closes it."""

    def __init__(self, settings: WarehouseSettings) -> None:
        self._database = Database(settings.dsn)

    def read(self, topic: str) -> Mapping[int, int]:
        """The end of the last committed batch of each shard that has one; none before the first worker's start."""
        if self._database.query(SQL["find_positions"])[0][0] is None:
            return {}
        return dict(self._database.query(SQL["positions"], {"topic": topic}))

    def close(self) -> None:
        """Close the connection."""
        self._database.close()
