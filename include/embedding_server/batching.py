"""The queue between requests and the model: sorts texts by length, and lets short requests share a batch."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from include.embedding_server.engine import Engine, Tokens
from include.errors import without_values

#: The most texts in the queue. Beyond it requests are refused: a client that waits costs less than a long queue.
MAX_PENDING_TEXTS = 50_000

#: A request is not split into slices smaller than this, even if a worker is idle.
_MIN_SLICE_TOKENS = 256

_LOG = logging.getLogger(__name__)


class BusyError(Exception):
    """Too many texts are waiting."""


class Embeddings(NamedTuple):
    """The vectors of a request's texts, in order, and the number of tokens in all of them."""

    vectors: np.ndarray
    token_count: int


@dataclass(eq=False)
class _Job:
    """A request in progress. ``completion`` is set when no text remains."""

    vectors: np.ndarray
    remaining: int
    completion: asyncio.Future[None]


@dataclass(frozen=True)
class _Slice:
    """Part of a job, its shortest text first. ``rows`` are the texts' rows in the job's vectors."""

    job: _Job
    rows: Sequence[int]
    texts: Sequence[Tokens]
    token_count: int


class Batcher:
    """Calls ``engine.embed`` in ``engine.workers`` threads. Use it from one event loop only; the caller closes it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: deque[_Slice] = deque()
        self._pending_texts = 0
        self._closed = False
        self._queue_changed = threading.Condition()
        self._tokenizer = ThreadPoolExecutor(1, thread_name_prefix="tokenize")
        self._workers = [
            threading.Thread(target=self._run_worker, name=f"model-{number}", daemon=True)
            for number in range(engine.workers)
        ]
        for worker in self._workers:
            worker.start()

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Raises ``BusyError`` if too many texts are waiting already, and whatever the model raises."""
        if self._pending_texts + len(texts) > MAX_PENDING_TEXTS:
            raise BusyError
        loop = asyncio.get_running_loop()
        self._pending_texts += len(texts)
        try:
            tokens = await loop.run_in_executor(self._tokenizer, self._engine.tokenize, texts)
            vectors = np.empty((len(texts), self._engine.dimension), dtype=np.float32)
            job = _Job(vectors, len(texts), loop.create_future())
            with self._queue_changed:
                self._queue.extend(self._split(job, tokens))
                self._queue_changed.notify_all()
            await job.completion
        finally:
            self._pending_texts -= len(texts)
        return Embeddings(vectors, sum(map(len, tokens)))

    def close(self) -> None:
        """Finish the queue, then stop the threads."""
        with self._queue_changed:
            self._closed = True
            self._queue_changed.notify_all()
        for worker in self._workers:
            worker.join()
        self._tokenizer.shutdown()

    def _split(self, job: _Job, texts: Sequence[Tokens]) -> list[_Slice]:
        """Split the texts into slices of about equal work: at least one per worker if the job is large enough."""
        total = sum(map(len, texts))
        per_batch, per_worker = -(-total // self._engine.batch_tokens), total // _MIN_SLICE_TOKENS
        slice_tokens = max(total / max(per_batch, min(self._engine.workers, per_worker), 1), 1)
        slices, rows, token_count = [], list[int](), 0
        for row in sorted(range(len(texts)), key=lambda row: len(texts[row])):
            if rows and token_count + len(texts[row]) > slice_tokens:
                slices.append(_Slice(job, rows, [texts[row] for row in rows], token_count))
                rows, token_count = [], 0
            rows.append(row)
            token_count += len(texts[row])
        slices.append(_Slice(job, rows, [texts[row] for row in rows], token_count))
        return slices

    def _run_worker(self) -> None:
        while batch := self._next_batch():
            try:
                self._compute(batch)
            except Exception as exc:  # noqa: BLE001 # top level of a thread: its requests get the error, it goes on
                _LOG.error("the model failed on a batch", exc_info=without_values(exc))
                for job in {part.job for part in batch}:
                    self._complete(job, exc)

    def _next_batch(self) -> list[_Slice]:
        """Wait for a slice and add slices of other jobs while they fit. Empty once the batcher is closed and done."""
        with self._queue_changed:
            while not self._queue:
                if self._closed:
                    return []
                self._queue_changed.wait()
            batch = [self._queue.popleft()]
            token_count = batch[0].token_count
            # A job was split so that several workers share it: its slices are not joined again.
            jobs = {batch[0].job}
            while (
                self._queue
                and self._queue[0].job not in jobs
                and token_count + self._queue[0].token_count <= self._engine.batch_tokens
            ):
                jobs.add(self._queue[0].job)
                batch.append(self._queue.popleft())
                token_count += batch[-1].token_count
            return batch

    def _compute(self, batch: Sequence[_Slice]) -> None:
        texts = [(tokens, part.job, row) for part in batch for row, tokens in zip(part.rows, part.texts, strict=True)]
        if len(batch) > 1:
            texts.sort(key=lambda text: len(text[0]))
        vectors = self._engine.embed([tokens for tokens, _, _ in texts])
        for (_, job, row), vector in zip(texts, vectors, strict=True):
            job.vectors[row] = vector
        for part in batch:
            with self._queue_changed:
                part.job.remaining -= len(part.rows)
                complete = part.job.remaining == 0
            if complete:
                self._complete(part.job, None)

    @staticmethod
    def _complete(job: _Job, error: Exception | None) -> None:
        def set_completion() -> None:
            # The client may have disconnected, or another batch of the job may have failed first.
            if not job.completion.done():
                if error is None:
                    job.completion.set_result(None)
                else:
                    job.completion.set_exception(error)

        job.completion.get_loop().call_soon_threadsafe(set_completion)
