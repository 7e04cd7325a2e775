"""All ports of the warehouse, over one connection."""

from __future__ import annotations

from functools import cached_property

from include.settings import WarehouseSettings
from include.stores.postgres import Database
from include.stores.warehouse.engagement import WarehouseEngagement
from include.stores.warehouse.events import WarehouseStoredVersions, WarehouseTextVectors
from include.stores.warehouse.expiry import WarehouseExpiry
from include.stores.warehouse.ledger import WarehouseLedger
from include.stores.warehouse.ranking import WarehouseEngagementLog, WarehouseRankingModels
from include.stores.warehouse.retention import WarehouseRetention
from include.stores.warehouse.schema import ensure_schema
from include.stores.warehouse.stats import WarehouseStats
from include.stores.warehouse.user_activity import WarehouseUserActivity


class Warehouse:
    """Connects on first use and creates missing tables. The caller closes it."""

    def __init__(self, settings: WarehouseSettings) -> None:
        self._settings = settings

    @cached_property
    def database(self) -> Database:
        database = Database(self._settings.dsn)
        ensure_schema(database)
        return database

    @cached_property
    def ledger(self) -> WarehouseLedger:
        return WarehouseLedger(self.database)

    @cached_property
    def stored_versions(self) -> WarehouseStoredVersions:
        return WarehouseStoredVersions(self.database)

    @cached_property
    def text_vectors(self) -> WarehouseTextVectors:
        return WarehouseTextVectors(self.database)

    @cached_property
    def engagement(self) -> WarehouseEngagement:
        return WarehouseEngagement(self.database)

    @cached_property
    def activity(self) -> WarehouseUserActivity:
        return WarehouseUserActivity(self.database)

    @cached_property
    def engagement_log(self) -> WarehouseEngagementLog:
        return WarehouseEngagementLog(self.database)

    @cached_property
    def models(self) -> WarehouseRankingModels:
        return WarehouseRankingModels(self.database)

    @cached_property
    def retention(self) -> WarehouseRetention:
        return WarehouseRetention(self.database)

    @cached_property
    def expiry(self) -> WarehouseExpiry:
        return WarehouseExpiry(self.database)

    @cached_property
    def stats(self) -> WarehouseStats:
        return WarehouseStats(self.database)

    def close(self) -> None:
        """Close the connection."""
        if "database" in self.__dict__:
            self.database.close()
