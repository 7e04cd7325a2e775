"""The embed step against sentence-transformers with default settings, on the same texts in the same run.

First, distinct texts: the embedding server, including HTTP, against ``SentenceTransformer.encode``. Then repeated
texts: the pipeline step against encoding every row. Rounds of both alternate; the results are medians.
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
from include.pipeline.embed import EmbedPorts, embed
from include.pipeline.files import events_file, vectors_file
from include.settings import EmbedSettings, WarehouseSettings
from include.stores.files import ArrowFiles
from include.stores.warehouse.warehouse import Warehouse
from tests.benchmarks import rows
from tests.benchmarks.machine import run_main, temporary_stack

TARGET, TARGET_REPEATED = 1.5, 50.0
MIN_COSINE = 0.9999

type Encode = Callable[[Sequence[str]], np.ndarray]


def load_library() -> Encode:
    """Returns ``SentenceTransformer.encode`` with its default settings."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from sentence_transformers import SentenceTransformer

    from include.embedding_server.load import packaged_model

    model: Any = SentenceTransformer(str(packaged_model()), device="cpu")
    return lambda texts: np.asarray(model.encode(list(texts), show_progress_bar=False))


def measure(call: Callable[[], Any]) -> float:
    """Returns the duration of ``call`` in seconds."""
    started_at = time.perf_counter()
    call()
    return time.perf_counter() - started_at


def compare_distinct(encode: Encode, embedder: OpenAIEmbedder, texts: list[str], rounds: int) -> tuple[float, float]:
    """Returns the speed-up over the library and the smallest cosine between the two vectors of a text."""
    embedder.embed(texts[:200])
    encode(texts[:200])
    pairs = [(measure(lambda: encode(texts)), measure(lambda: embedder.embed(texts))) for _ in range(rounds)]
    library_s, server_s = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    print(f"{len(texts):,} distinct texts, library's encode    {len(texts) / library_s:8,.0f} texts/s")
    print(f"{len(texts):,} distinct texts, embedding server    {len(texts) / server_s:8,.0f} texts/s")
    reference = encode(texts)
    reference = reference / np.linalg.norm(reference, axis=1, keepdims=True)
    cosine = float((reference * embedder.embed(texts)).sum(axis=1).min())
    return statistics.median(first / second for first, second in pairs), cosine


def compare_repeated(
    encode: Encode, embedder: OpenAIEmbedder, warehouse: Warehouse, texts: list[str], times: int
) -> float:
    """Returns the speed-up of the step over encoding every row; each text is new and occurs ``times`` times."""
    ref = BatchRef("events", 0, 0, len(texts) * times)
    records = [_make_record(number, texts[number % len(texts)]) for number in range(ref.size)]
    events = [(record, decode(record.value)) for record in records]
    with tempfile.TemporaryDirectory() as folder:
        files = ArrowFiles(Path(folder).as_uri())
        files.write(events_file(ref), events_table(events))
        ports = EmbedPorts(files, embedder, warehouse.text_vectors)
        step_s = measure(lambda: embed(ref, ports))
        assert files.read(vectors_file(ref)).num_rows == len(texts)
        known_s = measure(lambda: embed(ref, ports))
    library_s = measure(lambda: encode([event.text or "" for _, event in events]))
    for name, seconds in (("encode every row", library_s), ("embed step, new", step_s), ("embed step, known", known_s)):
        print(f"{ref.size:,} rows of {len(texts):,} texts, {name:18} {ref.size / seconds:10,.0f} rows/s")
    return library_s / step_s


def _make_record(number: int, text: str) -> Record:
    body = {"user_id": f"u{number}", "message_id": "m", "kind": "message", "occurred_at": "2026-11-01T00:00:00Z"}
    return Record(0, number, 0, None, msgspec.json.encode({**body, "text": text}))


def main() -> int:
    """Run the benchmark. Returns 1 if the vectors differ from those of the library."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=3_000, help="distinct texts (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each (default: %(default)s)")
    parser.add_argument("--repeated", type=int, default=600, help="repeated texts (default: %(default)s)")
    parser.add_argument(
        "--times", type=int, default=50, help="occurrences of each repeated text (default: %(default)s)"
    )
    options = parser.parse_args()
    texts = rows.texts(options.texts + options.repeated)
    print(f"texts from {rows.label()}; {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    with temporary_stack(Screen(), "embed", "postgres") as stack:
        environment = stack.environment()
        embedder = OpenAIEmbedder(
            EmbedSettings(environment["MILLRACE_EMBED_URL"], api_key=environment["MILLRACE_EMBED_API_KEY"])
        )
        warehouse = Warehouse(WarehouseSettings(environment["MILLRACE_WAREHOUSE_DSN"]))
        warehouse.database  # noqa: B018 (connect before the measurement starts)
        encode = load_library()
        ratio, cosine = compare_distinct(encode, embedder, texts[: options.texts], options.rounds)
        repeated_ratio = compare_repeated(encode, embedder, warehouse, texts[-options.repeated :], options.times)
        embedder.close()
        warehouse.close()
    print(f"embedding server / encode: {ratio:.2f} (target {TARGET}); smallest cosine {cosine:.6f}")
    print(
        f"embed step / encode every row, {options.times} x each: {repeated_ratio:.0f} "
        f"(target {TARGET_REPEATED:.0f} at 50 x)"
    )
    return int(cosine < MIN_COSINE)


if __name__ == "__main__":
    run_main(main)
