"""Compare the stores of events: a merge join of their inventories, in memory that does not grow with the events."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import pyarrow as pa

from include.domain.inventory import InventoryRow, inventory_rows
from include.errors import PermanentError
from include.ports import Contents, Inventory

KEYS = pa.schema([pa.field("event_id", pa.string()), pa.field("user_id", pa.string())])


class Problem(StrEnum):
    """What is wrong with an event in one store."""

    MISSING = "missing"
    EXTRA = "extra"
    DIFFERENT = "different"


@dataclass(frozen=True)
class ComparedStore:
    """One store. ``needs`` is the field an event must have to be stored; ``contents``: the inventory, if it is full."""

    name: str
    inventory: Inventory
    needs: str | None = None
    contents: Contents | None = None


class EventState(NamedTuple):
    """What each store has of one event, in the order of the stores."""

    event_id: str
    rows: tuple[InventoryRow | None, ...]

    @property
    def user_id(self) -> str:
        """The user of the first row."""
        return next(row.user_id for row in self.rows if row is not None)


class Judgement(NamedTuple):
    """``standing``: the content that counts, None if no full store has the event.

    ``belongs``: whether each store should have it; ``problems``: what is wrong in each store.
    """

    standing: InventoryRow | None
    belongs: tuple[bool, ...]
    problems: tuple[Problem | None, ...]

    @property
    def is_right(self) -> bool:
        return not any(self.problems)


def judge(state: EventState, stores: Sequence[ComparedStore]) -> Judgement:
    """The content with the highest precedence in a store of full contents counts; the other stores follow from it.

    If two of them disagree on its user or its time, more stores decide.
    """
    full = [row for row, store in zip(state.rows, stores, strict=True) if store.contents and row is not None]
    standing = full[0] if full else None
    if any(row.identity != full[0].identity for row in full):
        identities = [row.identity for row in state.rows if row is not None]
        standing = max(full, key=lambda row: (row.precedence, identities.count(row.identity)))
    belongs = tuple(standing is not None and _belongs(standing, store.needs) for store in stores)
    problems = tuple(
        _find_problem(row, standing, belonging) for row, belonging in zip(state.rows, belongs, strict=True)
    )
    return Judgement(standing, belongs, problems)


def _belongs(standing: InventoryRow, needs: str | None) -> bool:
    has = {None: True, "text": standing.has_text, "item_id": standing.has_item}
    return bool(has[needs])


def _find_problem(row: InventoryRow | None, standing: InventoryRow | None, belongs: bool) -> Problem | None:
    if not belongs:
        return None if row is None else Problem.EXTRA
    if row is None:
        return Problem.MISSING
    return None if standing is None or row.identity == standing.identity else Problem.DIFFERENT


def scan_states(stores: Sequence[ComparedStore]) -> Iterator[list[EventState]]:
    """Every event that any store has, in order of event id, in chunks."""
    streams = [_Stream(store) for store in stores]
    while True:
        lasts = [last for stream in streams if (last := stream.fill()) is not None]
        if not lasts:
            return
        yield _join([stream.take(min(lasts)) for stream in streams])


def read_states(keys: Iterable[tuple[str, str]], stores: Sequence[ComparedStore]) -> list[EventState]:
    """What each store has now of the events with these (event_id, user_id)."""
    table = pa.table(dict(zip(KEYS.names, map(list, zip(*keys, strict=True)), strict=True)), schema=KEYS)
    return _join([dict(inventory_rows(store.inventory.read(table))) for store in stores])


def keys_of(states: Iterable[EventState]) -> list[tuple[str, str]]:
    """The (event_id, user_id) of each row; two if two stores disagree on the user of an event."""
    return sorted({(state.event_id, row.user_id) for state in states for row in state.rows if row is not None})


def _join(sides: Sequence[Mapping[str, InventoryRow]]) -> list[EventState]:
    ids = sorted(set().union(*sides))
    return [EventState(event_id, tuple([side.get(event_id) for side in sides])) for event_id in ids]


class _Stream:
    """The rows of one store that are not joined yet."""

    def __init__(self, store: ComparedStore) -> None:
        self._name = store.name
        self._chunks = store.inventory.scan()
        self._ids: list[str] = []
        self._rows: list[InventoryRow] = []
        self._last = ""

    def fill(self) -> str | None:
        """Read the next chunk if none is left. Returns the last event id at hand, None at the end of the store."""
        while not self._ids:
            chunk = next(self._chunks, None)
            if chunk is None:
                return None
            self._add(chunk)
        return self._ids[-1]

    def take(self, bound: str) -> dict[str, InventoryRow]:
        """Remove and return the rows up to and including ``bound``."""
        end = bisect_right(self._ids, bound)
        taken = dict(zip(self._ids[:end], self._rows[:end], strict=True))
        del self._ids[:end], self._rows[:end]
        return taken

    def _add(self, chunk: pa.Table) -> None:
        for event_id, row in inventory_rows(chunk):
            if event_id <= self._last:
                raise PermanentError(f"{self._name} does not return its events in order of event id")
            self._last = event_id
            self._ids.append(event_id)
            self._rows.append(row)
