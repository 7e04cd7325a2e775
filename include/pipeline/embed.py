"""embed: the vectors of a batch's texts, each distinct text computed once, ever."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.domain.batch import BatchRef
from include.pipeline.files import events_file, vectors_file
from include.ports import BatchStore, Embedder, TextVectors

#: Texts are taken in parts by the first digit of their hash: shards that meet the same texts at the same time share
#: the parts between them, and a retry loses at most one part.
PARTS = "0123456789abcdef"


def embed(ref: BatchRef, store: BatchStore, embedder: Embedder, kept: TextVectors) -> dict[str, int]:
    """Write the batch's vectors file; how many distinct texts it has and how many of them were new."""
    texts = _distinct_texts(store.read(events_file(ref)))
    # Each shard begins with another part, so that they do not queue for the same one.
    order = PARTS[ref.shard % len(PARTS) :] + PARTS[: ref.shard % len(PARTS)]
    vectors: dict[str, np.ndarray] = dict(kept.get(embedder.generation, list(texts)))
    missing = texts.keys() - vectors.keys()
    for part in order:
        wanted = {text_hash: texts[text_hash] for text_hash in sorted(missing) if text_hash.startswith(part)}
        if wanted:
            vectors.update(_embed_part(part, wanted, embedder, kept))
    store.write(vectors_file(ref), vectors_table(vectors, embedder.generation.dimension))
    return {"texts": len(texts), "new": len(missing)}


def _embed_part(part: str, texts: dict[str, str], embedder: Embedder, kept: TextVectors) -> dict[str, np.ndarray]:
    with kept.lock(embedder.generation, part):
        found = dict(kept.get(embedder.generation, list(texts)))
        # By length, so that a batch of the model has little padding.
        left = sorted(texts.keys() - found.keys(), key=lambda text_hash: (len(texts[text_hash]), text_hash))
        if left:
            new = embedder.embed([texts[text_hash] for text_hash in left])
            kept.put(embedder.generation, left, new)
            found.update(zip(left, new, strict=True))
        return found


def _distinct_texts(events: pa.Table) -> dict[str, str]:
    with_text = events.select(["text_hash", "text"]).filter(pc.is_valid(events["text_hash"]))
    return dict(zip(with_text["text_hash"].to_pylist(), with_text["text"].to_pylist(), strict=True))


def vectors_table(vectors: dict[str, np.ndarray], dimension: int) -> pa.Table:
    """(text_hash, vector) rows, sorted by hash."""
    hashes = sorted(vectors)
    flat = np.concatenate([vectors[text_hash] for text_hash in hashes]) if hashes else np.empty(0, dtype=np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(flat, type=pa.float32()), dimension)
    return pa.table({"text_hash": pa.array(hashes, type=pa.string()), "vector": column})
