"""Everything the warehouse offers, over one connection."""

from __future__ import annotations

from functools import cached_property

from include.settings import WarehouseSettings
from include.stores.postgres import Database
from include.stores.warehouse.audience import WarehouseAudience
from include.stores.warehouse.engagement import WarehouseEngagement
from include.stores.warehouse.events import WarehouseStanding, WarehouseTextVectors
from include.stores.warehouse.inventory import Inventory
from include.stores.warehouse.ledger import WarehouseLedger
from include.stores.warehouse.schema import ensure_schema


class Warehouse:
    """Opens with the first use; the schema is made if it is missing. Close it when done."""

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
    def standing(self) -> WarehouseStanding:
        return WarehouseStanding(self.database)

    @cached_property
    def text_vectors(self) -> WarehouseTextVectors:
        return WarehouseTextVectors(self.database)

    @cached_property
    def engagement(self) -> WarehouseEngagement:
        return WarehouseEngagement(self.database)

    @cached_property
    def audience(self) -> WarehouseAudience:
        return WarehouseAudience(self.database)

    @cached_property
    def inventory(self) -> Inventory:
        return Inventory(self.database)

    def close(self) -> None:
        """Give the connection back."""
        if "database" in self.__dict__:
            self.database.close()
