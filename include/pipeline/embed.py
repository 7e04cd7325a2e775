"""embed: the vectors of a batch's texts. Each distinct text is embedded only once, ever."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.domain.batch import BatchRef
from include.domain.generation import Generation
from include.pipeline.files import events_file, vectors_file
from include.ports import BatchStore, Embedder, TextVectors

#: Texts are embedded in parts by the first digit of their hash: shards that meet the same texts at the same time share
#: the parts between them, and a retry repeats at most one part.
PARTS = "0123456789abcdef"


@dataclass(frozen=True)
class EmbedPorts:
    """What ``embed`` reads and writes."""

    files: BatchStore
    embedder: Embedder
    text_vectors: TextVectors


def embed(ref: BatchRef, ports: EmbedPorts) -> dict[str, int]:
    """Write the batch's vectors file. Returns the number of its distinct texts and of those that were new."""
    vectors, new = vectors_of(ports.files.read(events_file(ref)), ref.shard, ports.embedder, ports.text_vectors)
    ports.files.write(vectors_file(ref), vectors_table(vectors, ports.embedder.generation))
    return {"texts": len(vectors), "new": new}


def vectors_of(
    events: pa.Table, shard: int, embedder: Embedder, text_vectors: TextVectors
) -> tuple[dict[str, np.ndarray], int]:
    """The vectors of the texts of ``events``, by hash, and how many of the texts were new."""
    texts = _distinct_texts(events)
    text_vectors.mark_used(embedder.generation, list(texts))  # before they are read
    vectors: dict[str, np.ndarray] = dict(text_vectors.get(embedder.generation, list(texts)))
    missing = texts.keys() - vectors.keys()
    # Each shard begins with a different part, so that they do not queue for the same one.
    first = shard % len(PARTS)
    for part in PARTS[first:] + PARTS[:first]:
        in_part = {text_hash: texts[text_hash] for text_hash in sorted(missing) if text_hash.startswith(part)}
        if in_part:
            vectors.update(_embed_part(part, in_part, embedder, text_vectors))
    return vectors, len(missing)


def _embed_part(
    part: str, texts: dict[str, str], embedder: Embedder, text_vectors: TextVectors
) -> dict[str, np.ndarray]:
    generation = embedder.generation
    with text_vectors.lock(generation, part):
        # Another shard may have embedded some of them while this one waited for the lock.
        vectors = dict(text_vectors.get(generation, list(texts)))
        # Sorted by length, so that a batch of the model has little padding.
        missing = sorted(texts.keys() - vectors.keys(), key=lambda text_hash: (len(texts[text_hash]), text_hash))
        if missing:
            embedded = embedder.embed([texts[text_hash] for text_hash in missing])
            text_vectors.put(generation, missing, embedded)
            vectors.update(zip(missing, embedded, strict=True))
        return vectors


def _distinct_texts(events: pa.Table) -> dict[str, str]:
    with_text = events.select(["text_hash", "text"]).filter(pc.is_valid(events["text_hash"]))
    return dict(zip(with_text["text_hash"].to_pylist(), with_text["text"].to_pylist(), strict=True))


def vectors_table(vectors: dict[str, np.ndarray], generation: Generation) -> pa.Table:
    """(text_hash, vector) rows, sorted by hash. The schema's metadata names their generation."""
    hashes = sorted(vectors)
    flat = np.concatenate([vectors[text_hash] for text_hash in hashes]) if hashes else np.empty(0, dtype=np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(flat, type=pa.float32()), generation.dimension)
    table = pa.table({"text_hash": pa.array(hashes, type=pa.string()), "vector": column})
    return table.replace_schema_metadata({"generation": generation.name})
