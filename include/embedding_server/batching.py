"""Between requests and the model: texts are sorted by length, cut into batches, and short requests share one."""

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

#: Texts that may wait. More are refused: whoever sends them had better wait there.
MAX_WAITING = 50_000

#: Below so many tokens a batch is not worth cutting, even if a worker is idle.
_LEAST_TOKENS = 256

_LOG = logging.getLogger(__name__)


class BusyError(Exception):
    """Too many texts are waiting."""


class Embedded(NamedTuple):
    """The vectors of a request in its order, and how many tokens its texts have."""

    vectors: np.ndarray
    tokens: int


@dataclass(eq=False)
class _Job:
    """A request on its way: complete when no text is left."""

    vectors: np.ndarray
    left: int
    done: asyncio.Future[None]


@dataclass(frozen=True)
class _Slice:
    """Some texts of a job, shortest first: their rows in the job's vectors, and their tokens."""

    job: _Job
    rows: Sequence[int]
    texts: Sequence[Tokens]
    tokens: int


class Batcher:
    """Calls ``engine.embed`` in ``engine.workers`` threads of its own. Used from one event loop; ``close`` ends it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: deque[_Slice] = deque()
        self._texts = 0
        self._closed = False
        self._ready = threading.Condition()
        self._tokenizer = ThreadPoolExecutor(1, thread_name_prefix="tokenize")
        self._workers = [
            threading.Thread(target=self._work, name=f"model-{number}", daemon=True) for number in range(engine.workers)
        ]
        for worker in self._workers:
            worker.start()

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Raises ``BusyError`` when too many texts wait already, and whatever the model raised."""
        if self._texts + len(texts) > MAX_WAITING:
            raise BusyError
        loop = asyncio.get_running_loop()
        self._texts += len(texts)
        try:
            tokens = await loop.run_in_executor(self._tokenizer, self._engine.tokenize, texts)
            vectors = np.empty((len(texts), self._engine.dimension), dtype=np.float32)
            job = _Job(vectors, len(texts), loop.create_future())
            with self._ready:
                self._waiting.extend(self._slices(job, tokens))
                self._ready.notify_all()
            await job.done
        finally:
            self._texts -= len(texts)
        return Embedded(vectors, sum(map(len, tokens)))

    def close(self) -> None:
        """Compute what waits, then end the threads."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        for worker in self._workers:
            worker.join()
        self._tokenizer.shutdown()

    def _slices(self, job: _Job, texts: Sequence[Tokens]) -> list[_Slice]:
        """The texts in slices of about equal work, at least one a worker where there is enough of it."""
        total = sum(map(len, texts))
        wanted = max(-(-total // self._engine.batch_tokens), min(self._engine.workers, total // _LEAST_TOKENS), 1)
        slices, rows, tokens = [], list[int](), 0
        for row in sorted(range(len(texts)), key=lambda row: len(texts[row])):
            if rows and tokens + len(texts[row]) > max(total / wanted, 1):
                slices.append(_Slice(job, rows, [texts[row] for row in rows], tokens))
                rows, tokens = [], 0
            rows.append(row)
            tokens += len(texts[row])
        slices.append(_Slice(job, rows, [texts[row] for row in rows], tokens))
        return slices

    def _work(self) -> None:
        while taken := self._take():
            try:
                self._compute(taken)
            except Exception as exc:  # noqa: BLE001 # the head of a thread: the requests get the error, it lives on
                _LOG.exception("the model failed on a batch")
                for job in {part.job for part in taken}:
                    self._settle(job, exc)

    def _take(self) -> list[_Slice]:
        """The next slice and those of other jobs that fit in a batch with it; nothing when all is done for good."""
        with self._ready:
            while not self._waiting:
                if self._closed:
                    return []
                self._ready.wait()
            taken = [self._waiting.popleft()]
            tokens = taken[0].tokens
            # A job that was cut was cut for several workers: its parts are not joined again.
            jobs = {taken[0].job}
            while (
                self._waiting
                and self._waiting[0].job not in jobs
                and tokens + self._waiting[0].tokens <= self._engine.batch_tokens
            ):
                jobs.add(self._waiting[0].job)
                taken.append(self._waiting.popleft())
                tokens += taken[-1].tokens
            return taken

    def _compute(self, taken: Sequence[_Slice]) -> None:
        texts = [(tokens, part.job, row) for part in taken for row, tokens in zip(part.rows, part.texts, strict=True)]
        if len(taken) > 1:
            texts.sort(key=lambda text: len(text[0]))
        vectors = self._engine.embed([tokens for tokens, _, _ in texts])
        for (_, job, row), vector in zip(texts, vectors, strict=True):
            job.vectors[row] = vector
        for part in taken:
            with self._ready:
                part.job.left -= len(part.rows)
                complete = part.job.left == 0
            if complete:
                self._settle(part.job, None)

    @staticmethod
    def _settle(job: _Job, error: Exception | None) -> None:
        def settle() -> None:
            # The client may have gone, or another batch of the job may have failed first.
            if not job.done.done():
                if error is None:
                    job.done.set_result(None)
                else:
                    job.done.set_exception(error)

        job.done.get_loop().call_soon_threadsafe(settle)
