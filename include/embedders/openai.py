"""The Embedder port on any server that speaks the OpenAI embeddings protocol: ours, another, or a hosted API."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import msgspec
import numpy as np

from include.domain.generation import Generation
from include.errors import PermanentError, TransientError
from include.settings import EmbedSettings

#: A request holds at most so many texts and characters: its time is bounded whatever the texts are.
TEXTS_PER_REQUEST = 128
CHARACTERS_PER_REQUEST = 200_000
#: Requests on their way at once: the server computes one, reads the next and writes the last.
IN_FLIGHT = 3

#: The server may have the requests of every shard before ours.
_TIMEOUT = httpx.Timeout(120, connect=5, pool=None)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_URL, _KEY, _MODEL = "MILLRACE_EMBED_URL", "MILLRACE_EMBED_API_KEY", "the embedding model"


class _Embedding(msgspec.Struct):
    index: int
    embedding: str | list[float]


class _Reply(msgspec.Struct):
    data: list[_Embedding]


_DECODER = msgspec.json.Decoder(_Reply)


class OpenAIEmbedder:
    """Vectors from ``settings.url``. It holds connections from the first call on; the caller closes it.

    What the server sends is checked (their number, dimension, finiteness) and brought to length one, so that any
    server gives the same kind of vectors. Whatever it cuts off a long text is the server's to decide.
    """

    def __init__(self, settings: EmbedSettings) -> None:
        self._settings = settings
        headers = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
        try:
            self._client = httpx.Client(
                headers=headers,
                timeout=_TIMEOUT,
                # A proxy of the environment is for servers elsewhere.
                trust_env=urlsplit(settings.url).hostname not in _LOOPBACK,
                limits=httpx.Limits(max_connections=IN_FLIGHT),
            )
        except ValueError as exc:
            raise PermanentError(f"{_URL} is {settings.url!r}; it must be like http://host:port/v1") from exc
        self._endpoint = f"{settings.url.rstrip('/')}/embeddings"

    @property
    def generation(self) -> Generation:
        return self._settings.generation

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (len(texts), dimension), rows of length one, in the order of ``texts``."""
        vectors = np.empty((len(texts), self._settings.dimension), dtype=np.float32)
        parts = list(_parts(texts))
        if len(parts) < 2:
            done: Iterator[np.ndarray] = (self._request([texts[row] for row in rows]) for rows in parts)
            _place(vectors, parts, done)
            return vectors
        with ThreadPoolExecutor(min(IN_FLIGHT, len(parts)), thread_name_prefix="embed") as pool:
            try:
                _place(vectors, parts, pool.map(self._request, [[texts[row] for row in rows] for rows in parts]))
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return vectors

    def close(self) -> None:
        """Close the connections. The embedder is of no use afterwards."""
        self._client.close()

    def _request(self, texts: list[str]) -> np.ndarray:
        body = {"model": self._settings.model, "input": texts, "encoding_format": "base64"}
        with self._translated():
            answer = self._client.post(
                self._endpoint, content=msgspec.json.encode(body), headers={"Content-Type": "application/json"}
            )
            answer.raise_for_status()
            reply = _DECODER.decode(answer.content)
        return self._checked(reply, len(texts))

    def _checked(self, reply: _Reply, count: int) -> np.ndarray:
        rows = sorted(reply.data, key=lambda row: row.index)
        if [row.index for row in rows] != list(range(count)):
            raise PermanentError(f"{self._endpoint} sent {len(rows)} vectors for {count} texts; see {_URL}")
        vectors = [self._vector(row.embedding) for row in rows]
        widths = {len(vector) for vector in vectors}
        if widths != {self._settings.dimension}:
            raise PermanentError(
                f"model {self._settings.model!r} gives vectors of {', '.join(map(str, sorted(widths)))} numbers, but "
                f"the setting dimension of {_MODEL} is {self._settings.dimension}"
            )
        table = np.stack(vectors)
        lengths = np.linalg.norm(table, axis=1, keepdims=True)
        if not np.isfinite(table).all() or not lengths.all():
            raise PermanentError(f"model {self._settings.model!r} gave a vector that is no direction (nan, inf or 0)")
        unit: np.ndarray = table / lengths
        return unit

    def _vector(self, embedding: str | list[float]) -> np.ndarray:
        if isinstance(embedding, list):
            return np.array(embedding, dtype=np.float32)
        try:
            return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")
        except (ValueError, binascii.Error) as exc:
            raise PermanentError(f"{self._endpoint} sent a vector that is not base64 of float32; see {_URL}") from exc

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """What passes by itself (no answer, too busy, a failure of the server's) and what a setting must cure."""
        try:
            yield
        except httpx.HTTPStatusError as exc:
            raise self._refused(exc.response) from exc
        except httpx.TransportError as exc:
            if isinstance(exc, httpx.UnsupportedProtocol):
                raise PermanentError(f"{_URL} must begin with http:// or https://: {exc}") from exc
            raise TransientError(f"the embedding server {self._endpoint} does not answer: {exc!r}") from exc
        except httpx.InvalidURL as exc:
            raise PermanentError(f"{_URL} is no URL: {exc}") from exc
        except msgspec.DecodeError as exc:
            raise PermanentError(f"{self._endpoint} does not speak the OpenAI protocol ({exc}); see {_URL}") from exc

    def _refused(self, answer: httpx.Response) -> TransientError | PermanentError:
        status, said = answer.status_code, _message(answer)
        if status in (408, 425, 429) or status >= 500:
            return TransientError(f"the embedding server answered {status}: {said}")
        cause = {
            401: f"{_KEY} is missing or wrong",
            403: f"{_KEY} may not use this model",
            404: f"{_URL} or the name of {_MODEL} ({self._settings.model!r}) is wrong",
        }.get(status, "the request was refused")
        return PermanentError(f"the embedding server {self._endpoint} answered {status}: {cause}: {said}")


def _parts(texts: Sequence[str]) -> Iterator[list[int]]:
    """The rows of ``texts``, shortest first, in requests: texts of one length cost a model the least."""
    part: list[int] = []
    characters = 0
    for row in sorted(range(len(texts)), key=lambda row: len(texts[row])):
        length = len(texts[row])
        if part and (len(part) == TEXTS_PER_REQUEST or characters + length > CHARACTERS_PER_REQUEST):
            yield part
            part, characters = [], 0
        part.append(row)
        characters += length
    if part:
        yield part


def _place(vectors: np.ndarray, parts: Sequence[list[int]], done: Iterator[np.ndarray]) -> None:
    for rows, found in zip(parts, done, strict=True):
        vectors[rows] = found


def _message(answer: httpx.Response) -> str:
    """What the server says of its refusal, short and without what was asked."""
    try:
        return str(answer.json()["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return answer.text[:300]
