"""How texts reach the model and how their vectors get back to the requests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from include.embedding_server import batching
from include.embedding_server.batching import Batcher, BusyError, Embeddings
from tests.unit.embedding_server.fake_engine import FakeEngine

TEXTS = ["ccc", "a", "bb", "", "a", "d" * 250, "日本語"]


@contextmanager
def open_batcher(engine: FakeEngine) -> Iterator[Batcher]:
    batcher = Batcher(engine)
    try:
        yield batcher
    finally:
        engine.unblocked.set()
        batcher.close()


def embed_separately(engine: FakeEngine, texts: list[str]) -> np.ndarray:
    """The vectors that the model computes for each text alone."""
    return np.concatenate([FakeEngine().embed([tokens]) for tokens in engine.tokenize(texts)])


@pytest.mark.parametrize("workers", [1, 3])
def test_vectors_come_back_in_the_order_of_the_texts(workers: int) -> None:
    """However the texts are sorted and split, each gets its own vector."""
    engine = FakeEngine(workers)
    with open_batcher(engine) as batcher:
        embeddings = asyncio.run(batcher.embed(TEXTS))
    assert np.array_equal(embeddings.vectors, embed_separately(engine, TEXTS))
    assert embeddings.token_count == sum(map(len, TEXTS))


def test_batches_are_bounded_and_sorted_by_length() -> None:
    """A batch has at most the engine's number of tokens, and its texts are sorted by length."""
    engine = FakeEngine()
    with open_batcher(engine) as batcher:
        asyncio.run(batcher.embed(["x" * (1 + number * 7 % 20) for number in range(200)]))
    assert max(map(sum, engine.batches)) <= engine.batch_tokens
    assert len(engine.batches) > 10
    assert all(batch == sorted(batch) for batch in engine.batches)


def test_short_requests_share_a_batch() -> None:
    """Requests that are waiting at the same time are computed in one batch."""
    engine = FakeEngine()
    engine.unblocked.clear()

    async def embed_all() -> list[Embeddings]:
        tasks = [asyncio.create_task(batcher.embed([f"{number}" * 5])) for number in range(8)]
        await asyncio.sleep(0.2)
        engine.unblocked.set()
        return await asyncio.gather(*tasks)

    with open_batcher(engine) as batcher:
        results = asyncio.run(embed_all())
    assert len(engine.batches) <= 3
    expected = embed_separately(engine, [f"{number}" * 5 for number in range(8)])
    assert np.array_equal(np.concatenate([result.vectors for result in results]), expected)


def test_a_large_request_is_split_among_all_workers() -> None:
    """No worker is idle while another has plenty to do."""
    engine = FakeEngine(workers=4)
    engine.batch_tokens = 100_000
    with open_batcher(engine) as batcher:
        asyncio.run(batcher.embed(["x" * 10] * 400))
    assert len(engine.batches) == 4


def test_a_failure_affects_only_its_own_request() -> None:
    """The request whose batch failed gets the error; the next one succeeds."""
    engine = FakeEngine(failing="!")
    with open_batcher(engine) as batcher:
        with pytest.raises(RuntimeError, match="the model failed"):
            asyncio.run(batcher.embed(["fine", "not!"]))
        assert len(asyncio.run(batcher.embed(["fine"])).vectors) == 1


def test_a_cancelled_request_does_not_affect_others() -> None:
    """If a client disconnects, the other requests still get their vectors."""
    engine = FakeEngine()
    engine.unblocked.clear()

    async def embed_both() -> Embeddings:
        cancelled = asyncio.create_task(batcher.embed(["cancelled"]))
        await asyncio.sleep(0.1)
        cancelled.cancel()
        other = asyncio.create_task(batcher.embed(["other"]))
        await asyncio.sleep(0.1)
        engine.unblocked.set()
        return await other

    with open_batcher(engine) as batcher:
        assert asyncio.run(embed_both()).vectors[0, 0] == len("other")


def test_requests_beyond_the_queue_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that does not fit in the queue is refused at once; finished texts free their place."""
    monkeypatch.setattr(batching, "MAX_PENDING_TEXTS", 10)
    engine = FakeEngine()
    with open_batcher(engine) as batcher:
        with pytest.raises(BusyError):
            asyncio.run(batcher.embed(["x"] * 11))
        for _ in range(3):
            assert len(asyncio.run(batcher.embed(["x"] * 10)).vectors) == 10


def test_closing_finishes_the_queue() -> None:
    """A shutdown still answers the requests that are waiting."""
    engine = FakeEngine()

    async def embed_and_close() -> Embeddings:
        task = asyncio.create_task(batcher.embed(["x" * 60] * 5))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(batcher.close)
        return await task

    batcher = Batcher(engine)
    assert len(asyncio.run(embed_and_close()).vectors) == 5
