"""embed: which texts are embedded, in which order, and the file that results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.domain.batch import BatchRef, events_table
from include.domain.generation import Generation
from include.domain.identity import text_hash
from include.embedders.memory import MemoryEmbedder
from include.pipeline.embed import PARTS, EmbedPorts, embed, vectors_table
from include.pipeline.files import events_file, vectors_file
from include.pipeline.upsert import read_vectors
from include.stores.files import ArrowFiles
from include.stores.memory_tables import MemoryTables
from include.stores.memory_warehouse import MemoryTextVectors
from tests.contract.events import event, record

GENERATION = Generation("test", "1", 4)


class RecordingTextVectors(MemoryTextVectors):
    """Records the order of the locks, and can act as another shard that embeds a part first."""

    def __init__(self) -> None:
        super().__init__(MemoryTables())
        self.locked: list[str] = []
        self.locked_part: str | None = None
        self.embedded_elsewhere: dict[str, list[str]] = {}

    @contextmanager
    def lock(self, generation: Generation, part: str) -> Iterator[None]:
        assert self.locked_part is None, "holding two locks at a time may deadlock"
        self.locked.append(part)
        for text in self.embedded_elsewhere.pop(part, []):
            self.put(generation, [text_hash(text)], np.full((1, generation.dimension), 9, dtype=np.float32))
        self.locked_part = part
        yield
        self.locked_part = None


class RecordingEmbedder(MemoryEmbedder):
    """Records each request, and checks that the lock of its part is held."""

    def __init__(self, text_vectors: RecordingTextVectors) -> None:
        super().__init__(GENERATION)
        self.requests: list[list[str]] = []
        self._text_vectors = text_vectors

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        assert {text_hash(text)[0] for text in texts} == {self._text_vectors.locked_part}
        self.requests.append(list(texts))
        return super().embed(texts)


class Pipeline:
    """One batch of these texts, and everything that it takes to embed it."""

    def __init__(self, folder: Path, texts: Sequence[str | None], shard: int = 0) -> None:
        self.ref = BatchRef("events", shard, 0, len(texts))
        self.files = ArrowFiles(f"file://{folder}")
        self.text_vectors = RecordingTextVectors()
        self.embedder = RecordingEmbedder(self.text_vectors)
        rows = [(record(number), event(message_id=str(number), text=text)) for number, text in enumerate(texts)]
        self.files.write(events_file(self.ref), events_table(rows))

    def run(self) -> dict[str, int]:
        return embed(self.ref, EmbedPorts(self.files, self.embedder, self.text_vectors))

    def vectors(self) -> dict[str, np.ndarray]:
        hashes, vectors = read_vectors(self.files.read(vectors_file(self.ref)))
        assert vectors.dtype == np.float32
        assert list(hashes) == sorted(hashes)
        return dict(zip(hashes, vectors, strict=True))


TEXTS = [f"text {number} {'long ' * (number % 5)}" for number in range(60)]


def test_each_distinct_text_gets_a_vector(tmp_path: Path) -> None:
    """Events without a text have no vector, events with the same text share one, and the file is sorted by hash."""
    pipeline = Pipeline(tmp_path, ["b", None, "a", "b", None])
    assert pipeline.run() == {"texts": 2, "new": 2}
    vectors = pipeline.vectors()
    assert vectors.keys() == {text_hash("a"), text_hash("b")}
    for text in ("a", "b"):
        np.testing.assert_array_equal(vectors[text_hash(text)], MemoryEmbedder(GENERATION).embed([text])[0])


def test_each_part_is_embedded_under_its_lock_in_order_of_length(tmp_path: Path) -> None:
    """A part is one request under one lock, with short texts first so that the model's batches need little padding."""
    pipeline = Pipeline(tmp_path, TEXTS)
    pipeline.run()
    assert sorted(text for request in pipeline.embedder.requests for text in request) == sorted(TEXTS)
    assert (
        len(pipeline.embedder.requests)
        == len(pipeline.text_vectors.locked)
        == len({text_hash(text)[0] for text in TEXTS})
    )
    for request in pipeline.embedder.requests:
        assert [len(text) for text in request] == sorted(len(text) for text in request)


@pytest.mark.parametrize("shard", [0, 1, 15, 16, 63])
def test_each_shard_begins_with_a_different_part(tmp_path: Path, shard: int) -> None:
    """Shards start at different parts, so that they do not queue for the same lock, and visit every part once."""
    pipeline = Pipeline(tmp_path, TEXTS, shard)
    pipeline.run()
    first = shard % len(PARTS)
    present = {text_hash(text)[0] for text in TEXTS}
    assert pipeline.text_vectors.locked == [part for part in PARTS[first:] + PARTS[:first] if part in present]


def test_texts_embedded_by_another_shard_in_the_meantime_are_reused(tmp_path: Path) -> None:
    """Texts that were stored before the lock was acquired are not embedded again; their stored vectors are used."""
    pipeline = Pipeline(tmp_path, TEXTS)
    elsewhere = [text for text in TEXTS if text_hash(text)[0] in "05"]
    assert elsewhere
    for text in elsewhere:
        pipeline.text_vectors.embedded_elsewhere.setdefault(text_hash(text)[0], []).append(text)
    assert pipeline.run()["texts"] == len(TEXTS)
    embedded = {text for request in pipeline.embedder.requests for text in request}
    assert embedded == set(TEXTS) - set(elsewhere)
    assert all((pipeline.vectors()[text_hash(text)] == 9).all() for text in elsewhere)


def test_texts_embedded_before_need_no_lock_and_no_model(tmp_path: Path) -> None:
    """A batch whose texts all have vectors needs neither the embedding server nor a lock."""
    pipeline = Pipeline(tmp_path, TEXTS)
    pipeline.run()
    before = pipeline.vectors()
    pipeline.text_vectors.locked.clear()
    pipeline.embedder.requests.clear()
    assert pipeline.run() == {"texts": len(TEXTS), "new": 0}
    assert (pipeline.text_vectors.locked, pipeline.embedder.requests) == ([], [])
    assert before.keys() == pipeline.vectors().keys()
    for name, vector in pipeline.vectors().items():
        np.testing.assert_array_equal(vector, before[name])


def test_each_generation_is_embedded_separately(tmp_path: Path) -> None:
    """A vector of one generation is never used for another."""
    pipeline = Pipeline(tmp_path, ["a"])
    pipeline.text_vectors.put(Generation("other", "1", 4), [text_hash("a")], np.ones((1, 4), dtype=np.float32))
    assert pipeline.run() == {"texts": 1, "new": 1}


@settings(deadline=None)  # a busy machine is not a failure
@given(st.dictionaries(st.text("0123456789abcdef", min_size=1, max_size=4), st.integers(0, 99), max_size=6))
def test_a_vectors_table_can_be_read_back(numbers: dict[str, int]) -> None:
    """Each hash keeps its vector whatever the order of the input, and a table may be empty."""
    vectors = {name: np.asarray([number, -number, 0.5], dtype=np.float32) for name, number in numbers.items()}
    hashes, matrix = read_vectors(vectors_table(vectors, Generation("model", "1", 3)))
    assert matrix.shape == (len(numbers), 3)
    assert hashes == tuple(sorted(numbers))
    for name, row in zip(hashes, matrix, strict=True):
        np.testing.assert_array_equal(row, vectors[name])
