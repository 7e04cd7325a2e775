"""The embed step against sentence-transformers as it comes, on the same texts, in one run on one machine.

First each distinct text once: our server, HTTP included, against ``SentenceTransformer.encode``. Then texts that
repeat: the step of the pipeline against encoding every row. Rounds of both alternate; the figures are medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from demo.screen import Screen
from include.domain.batch import BatchRef, Record, events_table
from include.domain.event import decode
from include.embedders.openai import OpenAIEmbedder
from include.pipeline.embed import embed
from include.pipeline.files import events_file, vectors_file
from include.settings import EmbedSettings, WarehouseSettings
from include.stores.files import ArrowFiles
from include.stores.warehouse.warehouse import Warehouse
from tests.benchmarks import rows
from tests.benchmarks.machine import ended_by_signals, own_stack

TARGET, TARGET_REPEATED = 1.5, 50.0
LEAST_COSINE = 0.9999

type Encode = Callable[[Sequence[str]], np.ndarray]


def library() -> Encode:
    """``SentenceTransformer.encode`` with its own defaults."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from sentence_transformers import SentenceTransformer

    from include.embedding_server.load import packaged_model

    model: Any = SentenceTransformer(str(packaged_model()), device="cpu")
    return lambda texts: np.asarray(model.encode(list(texts), show_progress_bar=False))


def timed(call: Callable[[], Any]) -> float:
    """Seconds that ``call`` takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def distinct(encode: Encode, embedder: OpenAIEmbedder, texts: list[str], rounds: int) -> tuple[float, float]:
    """(how many times as fast as the library, smallest cosine of a text's two vectors)."""
    embedder.embed(texts[:200])
    encode(texts[:200])
    pairs = [(timed(lambda: encode(texts)), timed(lambda: embedder.embed(texts))) for _ in range(rounds)]
    theirs, ours = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    print(f"{len(texts):,} distinct texts, encode as it comes  {len(texts) / theirs:8,.0f} texts/s")
    print(f"{len(texts):,} distinct texts, embedding server    {len(texts) / ours:8,.0f} texts/s")
    reference = encode(texts)
    reference = reference / np.linalg.norm(reference, axis=1, keepdims=True)
    cosine = float((reference * embedder.embed(texts)).sum(axis=1).min())
    return statistics.median(first / second for first, second in pairs), cosine


def repeated(encode: Encode, embedder: OpenAIEmbedder, house: Warehouse, texts: list[str], times: int) -> float:
    """How many times as fast the step is as encoding every row; each text is new and comes ``times`` times."""
    ref = BatchRef("events", 0, 0, len(texts) * times)
    found = [_record(number, texts[number % len(texts)]) for number in range(ref.size)]
    events = [(record, decode(record.value)) for record in found]
    with tempfile.TemporaryDirectory() as folder:
        files = ArrowFiles(Path(folder).as_uri())
        files.write(events_file(ref), events_table(events))
        ours = timed(lambda: embed(ref, files, embedder, house.text_vectors))
        assert files.read(vectors_file(ref)).num_rows == len(texts)
        again = timed(lambda: embed(ref, files, embedder, house.text_vectors))
    theirs = timed(lambda: encode([event.text or "" for _, event in events]))
    for name, seconds in (("encode every row", theirs), ("embed step, new", ours), ("embed step, known", again)):
        print(f"{ref.size:,} rows of {len(texts):,} texts, {name:18} {ref.size / seconds:10,.0f} rows/s")
    return theirs / ours


def _record(number: int, text: str) -> Record:
    body = {"user_id": f"u{number}", "message_id": "m", "kind": "message", "occurred_at": "2026-11-01T00:00:00Z"}
    return Record(0, number, 0, None, msgspec.json.encode({**body, "text": text}))


def main() -> int:
    """Measure and print; 1 if the vectors are not those of the library."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=3_000, help="distinct texts (3,000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each (3)")
    parser.add_argument("--repeated", type=int, default=600, help="texts that repeat (600)")
    parser.add_argument("--times", type=int, default=50, help="how often each of these comes (50)")
    asked = parser.parse_args()
    texts = rows.texts(asked.texts + asked.repeated)
    print(f"texts of {rows.label()}; {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    with own_stack(Screen(), "embed", "postgres") as stack:
        known = stack.environment()
        embedder = OpenAIEmbedder(EmbedSettings(known["MILLRACE_EMBED_URL"], api_key=known["MILLRACE_EMBED_API_KEY"]))
        house = Warehouse(WarehouseSettings(known["MILLRACE_WAREHOUSE_DSN"]))
        house.database  # noqa: B018 (connect now, not within the time that is measured)
        encode = library()
        ratio, cosine = distinct(encode, embedder, texts[: asked.texts], asked.rounds)
        many = repeated(encode, embedder, house, texts[-asked.repeated :], asked.times)
        embedder.close()
        house.close()
    print(f"embedding server / encode: {ratio:.2f} (target {TARGET}); smallest cosine {cosine:.6f}")
    print(f"embed step / encode every row, {asked.times} x each: {many:.0f} (target {TARGET_REPEATED:.0f} at 50 x)")
    return int(cosine < LEAST_COSINE)


if __name__ == "__main__":
    ended_by_signals(main)
