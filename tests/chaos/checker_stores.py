"""Invariants 1 and 2: every store has exactly the valid events, each with the content of its winning revision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import batched
from typing import Any

import httpx
import numpy as np

from include.settings import MEMORY_SCHEME, EmbedSettings, Settings
from tests.chaos.checker_readers import (
    CHUNK,
    READERS,
    StoredEvent,
    StoreReader,
    query_graph,
    query_warehouse,
    read_item_campaigns,
    to_json,
)
from tests.chaos.checker_report import Report, count_differences
from tests.chaos.expected import Expected

#: Vectors whose cosine is at least this are equal: float32, computed in batches of another composition.
SAME_VECTOR = 0.9999
_SAMPLE = 256

#: The weight of a relationship follows from its kind: derived data.
_DERIVED_FIELDS = frozenset({"weight"})

_MISSING = """
SELECT event_id FROM events WHERE {condition}
AND NOT EXISTS (SELECT 1 FROM found WHERE store = ? AND found.event_id = events.event_id)
"""
_EXTRA = """
SELECT event_id FROM found WHERE store = ?
AND NOT EXISTS (SELECT 1 FROM events WHERE events.event_id = found.event_id AND {condition})
"""
_VECTORS = """
SELECT text_hash, vector FROM pipeline.text_vectors WHERE generation = %(generation)s AND text_hash = ANY(%(texts)s)
"""
_NODES = """
MATCH (node:User|Item|Campaign) WHERE node.id STARTS WITH $prefix
RETURN labels(node) AS labels, count(node) - count(DISTINCT node.id) AS extra
"""


def check_stores(settings: Settings, expected: Expected, report: Report, vectors: int, prefix: str) -> None:
    """Compare every event of every store with the expected one. Leaves in ``found`` what each store has.

    ``vectors`` is the number of rows in Milvus.
    """
    for invariant in (1, 2, 8):
        report.checked(invariant)
    for store, reader in READERS.items():
        differences: list[tuple[str, str]] = []
        for chunk in batched(reader.read(settings, prefix), CHUNK):
            expected.mark_found(store, (event.event_id for event in chunk))
            differences += _compare(expected, reader, chunk)
            if store == "milvus":
                differences += _compare_vectors(settings, expected, report, chunk)
        _check_set(expected, report, store, reader)
        for name, examples in count_differences(differences):
            invariant = 8 if name in _DERIVED_FIELDS else 2
            report.add(
                invariant, len(examples), f"{reader.title} has {len(examples):,} events with a wrong {name}", examples
            )
    distinct = expected.value("SELECT count(*) FROM found WHERE store = 'milvus'")
    report.add(1, abs(vectors - distinct), f"Milvus has {vectors:,} rows, but {distinct:,} different keys")
    _check_graph(settings, expected, report, prefix)
    _check_fresh_vectors(settings, expected, report)


def find_missing(expected: Expected, store: str) -> Iterable[str]:
    """The events that belong in this store and were not found there."""
    rows = expected.select(_MISSING.format(condition=READERS[store].condition), store)
    return (event_id for (event_id,) in rows)


def _check_set(expected: Expected, report: Report, store: str, reader: StoreReader) -> None:
    missing = list(find_missing(expected, store))
    report.add(1, len(missing), f"{reader.title} lacks {len(missing):,} events", missing)
    extra = [event_id for (event_id,) in expected.select(_EXTRA.format(condition=reader.condition), store)]
    report.add(1, len(extra), f"{reader.title} has {len(extra):,} events that do not belong there", extra)
    rows = expected.select("SELECT event_id FROM found WHERE store = ? AND times > 1", store)
    repeated = [event_id for (event_id,) in rows]
    report.add(1, len(repeated), f"{reader.title} has {len(repeated):,} events more than once", repeated)


def _compare(expected: Expected, reader: StoreReader, chunk: Sequence[StoredEvent]) -> list[tuple[str, str]]:
    """The fields that differ, with the event. An event that should not be there at all is left out."""
    events = expected.find_events([event.event_id for event in chunk], reader.fields, reader.condition)
    return [
        (name, event.event_id)
        for event in chunk
        if event.event_id in events
        for name in _different_fields(event.fields, events[event.event_id])
    ]


def _different_fields(stored: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    wanted = {**expected, "extra": to_json(expected["extra"])} if "extra" in expected else expected
    return sorted(name for name in {*stored, *wanted} if stored.get(name) != wanted.get(name))


def _compare_vectors(
    settings: Settings, expected: Expected, report: Report, chunk: Sequence[StoredEvent]
) -> list[tuple[str, str]]:
    events = expected.find_events([event.event_id for event in chunk], ["text_hash"])
    hashes = {row["text_hash"] for row in events.values() if row["text_hash"] is not None}
    vectors = read_text_vectors(settings, sorted(hashes))
    gone = sorted(hashes - vectors.keys())
    report.add(8, len(gone), f"the vectors of {len(gone):,} texts in use are not in pipeline.text_vectors", gone)
    return [
        ("vector", event.event_id)
        for event in chunk
        if event.vector is not None
        and (text_hash := events.get(event.event_id, {}).get("text_hash")) in vectors
        and not is_same_direction(event.vector, vectors[text_hash])
    ]


def read_text_vectors(settings: Settings, hashes: Sequence[str]) -> dict[str, np.ndarray]:
    """The stored vectors of these texts."""
    parameters = {"generation": settings.embed.generation.name, "texts": list(hashes)}
    rows = query_warehouse(settings, _VECTORS, parameters)
    return {text_hash: np.frombuffer(vector, dtype="<f4") for text_hash, vector in rows}


def is_same_direction(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the cosine of two vectors is at least SAME_VECTOR."""
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return lengths > 0 and float(np.dot(one, other)) / lengths >= SAME_VECTOR


def _check_graph(settings: Settings, expected: Expected, report: Report, prefix: str) -> None:
    for row in query_graph(settings.neo4j, _NODES, prefix):
        report.add(1, row["extra"], f"Neo4j has {row['extra']:,} {row['labels'][0]} nodes more than ids")
    unexpected = repeated = 0
    needed = set(
        expected.select("SELECT DISTINCT item_id, campaign_id FROM events WHERE item_id <> '' AND campaign_id <> ''")
    )
    for item, campaign, times in read_item_campaigns(settings, prefix):
        needed.discard((item, campaign))
        known = "SELECT count(*) FROM item_campaigns WHERE item_id = ? AND campaign_id = ?"
        unexpected += not expected.value(known, item, campaign)
        repeated += times > 1
    report.add(2, len(needed), f"Neo4j lacks the campaign of {len(needed):,} items")
    report.add(2, unexpected, f"Neo4j has {unexpected:,} campaigns of items that no event names")
    report.add(1, repeated, f"Neo4j has {repeated:,} campaigns of items more than once")


def _check_fresh_vectors(settings: Settings, expected: Expected, report: Report) -> None:
    """Embed a sample of the texts again. The digests are as good as random numbers."""
    query = "SELECT DISTINCT text_hash, text FROM events WHERE text IS NOT NULL ORDER BY text_hash LIMIT ?"
    texts = dict(expected.select(query, _SAMPLE))
    if not texts:
        return
    stored = read_text_vectors(settings, list(texts))
    fresh = dict(zip(texts, embed(settings.embed, list(texts.values())), strict=True))
    wrong = [text for text, vector in stored.items() if not is_same_direction(vector, fresh[text])]
    report.add(
        2, len(wrong), f"{len(wrong):,} of {len(texts):,} texts have another vector when they are embedded again", wrong
    )


def embed(settings: EmbedSettings, texts: Sequence[str]) -> list[np.ndarray]:
    """One vector per text, from the embedding server."""
    if settings.url.startswith(MEMORY_SCHEME):
        from include.embedders.memory import MemoryEmbedder

        return list(MemoryEmbedder(settings.generation).embed(texts))
    headers = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
    vectors = []
    with httpx.Client(headers=headers, timeout=120, trust_env=False) as client:
        for part in batched(texts, 16):
            inputs = [text[: settings.max_characters or None] for text in part]
            body = {"model": settings.model, "input": inputs, "encoding_format": "float"}
            response = client.post(f"{settings.url.rstrip('/')}/embeddings", json=body).raise_for_status()
            rows = sorted(response.json()["data"], key=lambda row: row["index"])
            vectors += [np.asarray(row["embedding"], dtype=np.float32) for row in rows]
    return vectors
