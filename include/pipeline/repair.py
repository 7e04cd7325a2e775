"""repair: give every store the content that counts. Repairing twice has the effect of once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from include.domain.batch import EVENT_SCHEMA, BatchMode, BatchRef, StagedBatch
from include.domain.event import Event
from include.domain.inventory import InventoryRow
from include.pipeline.compare import KEYS, ComparedStore, EventState, Judgement, Problem, judge
from include.pipeline.embed import vectors_of
from include.ports import Embedder, Ledger, Sink, TextVectors, UserActivity

_DELETED = pa.schema([EVENT_SCHEMA.field(name) for name in ("event_id", "user_id", "version", "digest")])


@dataclass(frozen=True)
class WritePorts:
    """What writes whole events to stores, outside the topic's batches. ``vectors_for``: the sinks with vectors."""

    sinks: Mapping[str, Sink]
    vectors_for: frozenset[str]
    embedder: Embedder
    text_vectors: TextVectors
    activity: UserActivity
    ledger: Ledger

    def upsert(self, name: str, events: pa.Table, ref: BatchRef) -> None:
        """Write ``events`` (EVENT_SCHEMA) to one sink. Texts without a vector are embedded."""
        if name not in self.vectors_for:
            self.sinks[name].upsert(StagedBatch(ref, events))
            return
        vectors, _ = vectors_of(events, ref.shard, self.embedder, self.text_vectors)
        matrix = np.stack(list(vectors.values())) if vectors else np.empty((0, 0), dtype=np.float32)
        self.sinks[name].upsert(StagedBatch(ref, events, tuple(vectors), matrix))


@contextmanager
def claim_writes(name: str, ledger: Ledger) -> Iterator[BatchRef]:
    """A batch of the ledger for the rows that ``name`` writes, whose changed users are shown when it ends.

    A process that claims it again makes an earlier one stop. If one dies, the next shows its users too.
    """
    ref = ledger.claim_range(BatchRef(name, 0, 0, 0, BatchMode.RANGE))
    yield ref
    ledger.commit(ref)


class Repairer:
    """Repairs chunks of events that the comparison has found wrong."""

    def __init__(self, stores: Sequence[ComparedStore], ports: WritePorts, ref: BatchRef) -> None:
        self._stores = stores
        self._ports = ports
        self._ref = ref

    def repair(self, states: Sequence[EventState]) -> None:
        """Delete what no full store knows, and upsert what a store lacks or has differently."""
        judged = [(state, judge(state, self._stores)) for state in states]
        # Before the writes: if this stops between them, the next repair shows these users.
        users = {row.user_id for state in states for row in state.rows if row is not None}
        self._ports.activity.mark_changed_users(sorted(users), self._ref.batch_id)
        contents = self._read_contents(judged)
        for column, store in enumerate(self._stores):
            self._delete(store.name, list(_rows_to_delete(column, judged, contents)))
            ids = {s.event_id for s, j in judged if j.problems[column] in (Problem.MISSING, Problem.DIFFERENT)}
            events = [contents[event_id] for event_id in sorted(ids & contents.keys())]
            if events:
                self._ports.upsert(store.name, pa.concat_tables(events).combine_chunks(), self._ref)

    def _delete(self, name: str, rows: Sequence[tuple[str, InventoryRow]]) -> None:
        if rows:
            columns = zip(*((event_id, row.user_id, row.version, row.digest) for event_id, row in rows), strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, _DELETED, strict=True)]
            self._ports.sinks[name].delete(pa.Table.from_arrays(arrays, schema=_DELETED))

    def _read_contents(self, judged: Sequence[tuple[EventState, Judgement]]) -> dict[str, pa.Table]:
        """The content that counts of each event, by event id, from the first full store that has it intact."""
        found: dict[str, pa.Table] = {}
        for column, store in enumerate(self._stores):
            if store.contents is None:
                continue
            wanted = {
                state.event_id: judgement.standing
                for state, judgement in judged
                if state.event_id not in found and judgement.standing is not None
                and (row := state.rows[column]) is not None and row.precedence == judgement.standing.precedence
            }  # fmt: skip
            if wanted:
                keys = [(event_id, row.user_id) for event_id, row in wanted.items()]
                columns = dict(zip(KEYS.names, map(list, zip(*keys, strict=True)), strict=True))
                events = store.contents.read_contents(pa.table(columns, schema=KEYS))
                for position, event_id in enumerate(events["event_id"].to_pylist()):
                    event = events.slice(position, 1)
                    if wanted[event_id].digest == recompute_digest(event):
                        found[event_id] = event
        return found


def _rows_to_delete(
    column: int, judged: Sequence[tuple[EventState, Judgement]], contents: Mapping[str, pa.Table]
) -> Iterator[tuple[str, InventoryRow]]:
    """Rows that do not belong in the store, and those that would win against the content that counts."""
    for state, judgement in judged:
        row, problem, standing = state.rows[column], judgement.problems[column], judgement.standing
        if row is None or problem is None:
            continue
        is_in_the_way = standing is not None and row.precedence >= standing.precedence and state.event_id in contents
        if problem == Problem.EXTRA or is_in_the_way:
            yield state.event_id, row


def recompute_digest(event: pa.Table) -> str:
    """The digest of the content of one row of EVENT_SCHEMA, whatever its column ``digest`` says."""
    row = event.set_column(
        event.schema.get_field_index("occurred_at"), "occurred_at", event["occurred_at"].cast(pa.int64())
    ).to_pylist()[0]
    return Event(**{name: row[name] for name in Event.__struct_fields__}).digest
