"""The Embedder port on any server with the OpenAI embeddings protocol: Millrace's, another, or a hosted API."""

from __future__ import annotations

import base64
import binascii
import re
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

#: The most texts and characters in a request. They bound the time that a request takes, whatever the texts are.
MAX_TEXTS_PER_REQUEST = 128
MAX_CHARACTERS_PER_REQUEST = 200_000
#: Concurrent requests: while the server computes one, it parses the next and sends the last.
MAX_CONCURRENT_REQUESTS = 3

#: Long, because the requests of every other shard may be in the server's queue first.
_TIMEOUT = httpx.Timeout(120, connect=5, pool=None)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_URL, _KEY, _DIMENSION = "MILLRACE_EMBED_URL", "MILLRACE_EMBED_API_KEY", "MILLRACE_EMBED_DIMENSION"
_REFUSED = (
    "the request was refused; see the server's log. If a text is too long for the model, set "
    "MILLRACE_EMBED_MAX_CHARACTERS (max_characters in the extra of embed_default)"
)
#: What the protocol's types and codes of errors look like. Anything else may quote the input.
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")


class _Embedding(msgspec.Struct):
    index: int
    embedding: str | list[float]


class _EmbeddingsResponse(msgspec.Struct):
    data: list[_Embedding]


_DECODER = msgspec.json.Decoder(_EmbeddingsResponse)


class OpenAIEmbedder:
    """Vectors from the server at ``settings.url``. Connects on the first call; the caller closes it.

    Responses are checked (number of vectors, dimension, finite numbers) and the vectors are normalised, so they are
    alike from any server. Long texts are truncated by ``settings.max_characters``, or by the server.
    """

    def __init__(self, settings: EmbedSettings) -> None:
        self._settings = settings
        headers = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
        try:
            self._client = httpx.Client(
                headers=headers,
                timeout=_TIMEOUT,
                # A proxy from the environment cannot reach this machine's loopback.
                trust_env=urlsplit(settings.url).hostname not in _LOOPBACK,
                limits=httpx.Limits(max_connections=MAX_CONCURRENT_REQUESTS),
            )
        except ValueError:
            raise PermanentError(f"{_URL} is {settings.url!r}; it must look like http://host:port/v1") from None
        self._endpoint = f"{settings.url.rstrip('/')}/embeddings"

    @property
    def generation(self) -> Generation:
        return self._settings.generation

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (len(texts), dimension), rows of length one, in the order of ``texts``."""
        vectors = np.empty((len(texts), self._settings.dimension), dtype=np.float32)
        chunks = list(_split(texts))
        limit = self._settings.max_characters or None
        requests = [[texts[row][:limit] for row in rows] for rows in chunks]
        if len(requests) < 2:
            _fill(vectors, chunks, map(self._request, requests))
            return vectors
        with ThreadPoolExecutor(min(MAX_CONCURRENT_REQUESTS, len(requests)), thread_name_prefix="embed") as pool:
            try:
                _fill(vectors, chunks, pool.map(self._request, requests))
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return vectors

    def close(self) -> None:
        """Close the connections. Do not use the embedder afterwards."""
        self._client.close()

    def _request(self, texts: list[str]) -> np.ndarray:
        body = {"model": self._settings.model, "input": texts, "encoding_format": "base64"}
        with self._translate_errors():
            response = self._client.post(
                self._endpoint, content=msgspec.json.encode(body), headers={"Content-Type": "application/json"}
            )
            response.raise_for_status()
            embeddings = _DECODER.decode(response.content).data
        return self._unit_vectors(embeddings, len(texts))

    def _unit_vectors(self, embeddings: Sequence[_Embedding], count: int) -> np.ndarray:
        rows = sorted(embeddings, key=lambda row: row.index)
        if [row.index for row in rows] != list(range(count)):
            raise PermanentError(f"the embedding server returned {len(rows)} vectors for {count} texts; check {_URL}")
        vectors = [self._decode_vector(row.embedding) for row in rows]
        dimensions = {len(vector) for vector in vectors}
        if dimensions != {self._settings.dimension}:
            raise PermanentError(
                f"model {self._settings.model!r} returned vectors of dimension "
                f"{', '.join(map(str, sorted(dimensions)))}, but the dimension is set to {self._settings.dimension} "
                f"({_DIMENSION}, or dimension in the extra of embed_default)"
            )
        matrix = np.stack(vectors)
        lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
        if not np.isfinite(matrix).all() or not lengths.all():
            raise PermanentError(
                f"model {self._settings.model!r} returned a vector that is zero or has nan or infinite numbers"
            )
        unit: np.ndarray = matrix / lengths
        return unit

    def _decode_vector(self, embedding: str | list[float]) -> np.ndarray:
        if isinstance(embedding, list):
            return np.array(embedding, dtype=np.float32)
        try:
            return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")
        except (ValueError, binascii.Error):
            raise PermanentError(
                f"the embedding server returned a vector that is not base64 of float32; check {_URL}"
            ) from None

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Transient: no response, an overloaded server, a server error. Permanent: what only a setting can fix.

        Never quotes the response, which may quote the texts.
        """
        try:
            yield
        except httpx.HTTPStatusError as exc:
            raise self._error_from(exc.response) from None
        except httpx.UnsupportedProtocol:
            raise PermanentError(f"{_URL} must begin with http:// or https://") from None
        except httpx.TransportError as exc:
            raise TransientError(
                f"the embedding server is not responding: {type(exc).__name__}; check {_URL} and the server's log"
            ) from None
        except httpx.HTTPError as exc:
            raise PermanentError(
                f"the embedding server's response cannot be read: {type(exc).__name__}; check {_URL}"
            ) from None
        except httpx.InvalidURL:
            raise PermanentError(f"{_URL} is not a valid URL; it must look like http://host:port/v1") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise PermanentError(f"the embedding server does not speak the OpenAI protocol; check {_URL}") from None

    def _error_from(self, response: httpx.Response) -> TransientError | PermanentError:
        answer = " ".join([str(response.status_code), *_error_codes(response)])
        status = response.status_code
        if status in (408, 425, 429) or status >= 500:
            return TransientError(f"the embedding server returned {answer}; see its log")
        cause = {
            401: f"{_KEY} is missing or wrong",
            403: f"{_KEY} may not use this model",
            404: f"{_URL} or the model name {self._settings.model!r} is wrong",
        }.get(status, _REFUSED)
        return PermanentError(f"the embedding server returned {answer}: {cause}")


def _split(texts: Sequence[str]) -> Iterator[list[int]]:
    """The rows of each request, shortest text first: a model is fastest on texts of similar length."""
    chunk: list[int] = []
    characters = 0
    for row in sorted(range(len(texts)), key=lambda row: len(texts[row])):
        length = len(texts[row])
        if chunk and (len(chunk) == MAX_TEXTS_PER_REQUEST or characters + length > MAX_CHARACTERS_PER_REQUEST):
            yield chunk
            chunk, characters = [], 0
        chunk.append(row)
        characters += length
    if chunk:
        yield chunk


def _fill(vectors: np.ndarray, chunks: Sequence[list[int]], results: Iterator[np.ndarray]) -> None:
    for rows, result in zip(chunks, results, strict=True):
        vectors[rows] = result


def _error_codes(response: httpx.Response) -> list[str]:
    """The protocol's ``type`` and ``code`` of an error."""
    try:
        error = response.json()["error"]
        values = [error.get("type"), error.get("code")]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    return [value for value in values if isinstance(value, str) and _CODE.fullmatch(value)]
