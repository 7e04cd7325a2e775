"""The way of texts to the model and of vectors back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from include.embedding_server import batching
from include.embedding_server.batching import Batcher, BusyError, Embedded
from tests.unit.embedding_server.fake_engine import FakeEngine

TEXTS = ["ccc", "a", "bb", "", "a", "d" * 250, "日本語"]


@contextmanager
def batcher(engine: FakeEngine) -> Iterator[Batcher]:
    made = Batcher(engine)
    try:
        yield made
    finally:
        engine.held.set()
        made.close()


def of(engine: FakeEngine, texts: list[str]) -> np.ndarray:
    """What the model says of each text alone."""
    return np.concatenate([FakeEngine().embed([tokens]) for tokens in engine.tokenize(texts)])


@pytest.mark.parametrize("workers", [1, 3])
def test_vectors_come_back_in_the_order_of_the_texts(workers: int) -> None:
    """However the texts were sorted and cut, each has its own vector."""
    engine = FakeEngine(workers)
    with batcher(engine) as made:
        embedded = asyncio.run(made.embed(TEXTS))
    assert np.array_equal(embedded.vectors, of(engine, TEXTS))
    assert embedded.tokens == sum(map(len, TEXTS))


def test_batches_are_bounded_and_sorted_by_length() -> None:
    """A batch has about the engine's number of tokens, and texts of one length stand together."""
    engine = FakeEngine()
    with batcher(engine) as made:
        asyncio.run(made.embed(["x" * (1 + number * 7 % 20) for number in range(200)]))
    assert max(map(sum, engine.batches)) <= engine.batch_tokens
    assert len(engine.batches) > 10
    assert all(batch == sorted(batch) for batch in engine.batches)


def test_short_requests_share_a_batch() -> None:
    """Requests that wait together are computed together."""
    engine = FakeEngine()
    engine.held.clear()

    async def ask() -> list[Embedded]:
        tasks = [asyncio.create_task(made.embed([f"{number}" * 5])) for number in range(8)]
        await asyncio.sleep(0.2)
        engine.held.set()
        return await asyncio.gather(*tasks)

    with batcher(engine) as made:
        found = asyncio.run(ask())
    assert len(engine.batches) <= 3
    expected = of(engine, [f"{number}" * 5 for number in range(8)])
    assert np.array_equal(np.concatenate([embedded.vectors for embedded in found]), expected)


def test_a_big_request_is_cut_for_every_worker() -> None:
    """No worker is idle while another has more than enough."""
    engine = FakeEngine(workers=4)
    engine.batch_tokens = 100_000
    with batcher(engine) as made:
        asyncio.run(made.embed(["x" * 10] * 400))
    assert len(engine.batches) == 4


def test_a_failure_reaches_its_request_alone() -> None:
    """The request whose batch failed gets the error; the next one is answered."""
    engine = FakeEngine(failing="!")
    with batcher(engine) as made:
        with pytest.raises(RuntimeError, match="the model failed"):
            asyncio.run(made.embed(["fine", "not!"]))
        assert len(asyncio.run(made.embed(["fine"])).vectors) == 1


def test_a_request_given_up_harms_nobody() -> None:
    """A client that has gone leaves the others their vectors."""
    engine = FakeEngine()
    engine.held.clear()

    async def ask() -> Embedded:
        gone = asyncio.create_task(made.embed(["gone"]))
        await asyncio.sleep(0.1)
        gone.cancel()
        stays = asyncio.create_task(made.embed(["stays"]))
        await asyncio.sleep(0.1)
        engine.held.set()
        return await stays

    with batcher(engine) as made:
        assert asyncio.run(ask()).vectors[0, 0] == len("stays")


def test_too_much_waiting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be computed soon is refused at once, and room is made again when texts are done."""
    monkeypatch.setattr(batching, "MAX_WAITING", 10)
    engine = FakeEngine()
    with batcher(engine) as made:
        with pytest.raises(BusyError):
            asyncio.run(made.embed(["x"] * 11))
        for _ in range(3):
            assert len(asyncio.run(made.embed(["x"] * 10)).vectors) == 10


def test_closing_computes_what_waits() -> None:
    """A shutdown answers the requests that it finds."""
    engine = FakeEngine()

    async def ask() -> Embedded:
        task = asyncio.create_task(made.embed(["x" * 60] * 5))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(made.close)
        return await task

    made = Batcher(engine)
    assert len(asyncio.run(ask()).vectors) == 5
