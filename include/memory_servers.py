"""Every server in memory, by the name after ``memory://``: what a dry run of the DAGs uses instead of real servers.

Data lives as long as the process, and only there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from typing import Any

from include.domain.generation import Generation
from include.embedders.memory import MemoryEmbedder
from include.sinks.memory import MemorySink, Rows
from include.sources.memory import MemoryDeadLetters, MemorySource
from include.stores.memory_graph import MemoryGraph, MemorySimilarItems
from include.stores.memory_lists import MemoryLists
from include.stores.memory_vectors import MemoryProfiles
from include.stores.memory_warehouse import MemoryWarehouse, MemoryWarehouseSink


class MemoryServers:
    """One set of servers. Adapters that are opened twice share their data."""

    def __init__(self) -> None:
        self.source = MemorySource()
        self.dead_letters = MemoryDeadLetters()
        self.warehouse = MemoryWarehouse()
        self.profiles = MemoryProfiles()
        self.lists = MemoryLists()
        self._rows: defaultdict[str, Rows] = defaultdict(dict)
        self.similar_items = MemorySimilarItems(self._rows["neo4j"])

    @property
    def graph(self) -> MemoryGraph:
        """Reads what the sink ``neo4j`` wrote."""
        return MemoryGraph(self._rows["neo4j"])

    def open_sink(self, name: str, needs: str | None, needs_vectors: bool) -> MemorySink | MemoryWarehouseSink:
        """The sink of that name; the warehouse's also marks touched hours and changed users."""
        if name == MemoryWarehouseSink.name:
            return MemoryWarehouseSink(self.warehouse.tables)
        return MemorySink(name, needs, needs_vectors=needs_vectors, rows=self._rows[name])

    def rows(self, name: str) -> Mapping[Any, Mapping[str, Any]]:
        """Every event that the sink of that name holds, as columns of EVENT_SCHEMA."""
        return self.warehouse.tables.events if name == MemoryWarehouseSink.name else self._rows[name]

    def open_embedder(self, generation: Generation) -> MemoryEmbedder:
        """Vectors by hashing, stamped with ``generation``."""
        return MemoryEmbedder(generation)


@cache
def memory_servers(address: str) -> MemoryServers:
    """The servers of an address like ``memory://dry-run``: the same object for the same address."""
    return MemoryServers()
