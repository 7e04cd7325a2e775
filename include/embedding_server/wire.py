"""The OpenAI embeddings protocol: parsing requests, encoding responses and errors."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

#: OpenAI's limit on the number of texts per request.
MAX_TEXTS = 2048
#: Bytes. The protocol has no such limit; this one bounds the server's memory.
MAX_BODY = 32 * 1024 * 1024


class RequestError(Exception):
    """An error response. ``status`` is the HTTP status; ``kind``, ``code`` and ``param`` are fields of the protocol."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


class EmbeddingRequest(msgspec.Struct):
    """The supported fields of a request. Others, such as OpenAI's ``user``, are ignored."""

    model: str
    input: str | list[str]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


_DECODER = msgspec.json.Decoder(EmbeddingRequest)

#: Errors never quote the request: clients log them.
_SHAPE = (
    "The request is not valid. model must be a string, input a string or a list of strings, encoding_format float or "
    "base64, and dimensions an integer."
)


def parse_request(body: bytes, model: str, dimension: int) -> EmbeddingRequest:
    """Raises ``RequestError`` saying what is wrong with ``body``."""
    try:
        request = _DECODER.decode(body)
    except msgspec.ValidationError:
        raise RequestError(400, _SHAPE) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise RequestError(400, "The body is not valid JSON in UTF-8.") from None
    if request.model != model:
        message = f"The model does not exist; the only one here is {model!r}."
        raise RequestError(404, message, code="model_not_found", param="model")
    if request.dimensions not in (None, dimension):
        raise RequestError(400, f"This model supports only {dimension} dimensions.", param="dimensions")
    if not 1 <= len(request.texts) <= MAX_TEXTS:
        raise RequestError(400, f"input must have 1 to {MAX_TEXTS} texts, not {len(request.texts)}.", param="input")
    return request


def encode_embeddings(request: EmbeddingRequest, vectors: np.ndarray, rows: Sequence[int], tokens: int) -> bytes:
    """The response to ``request``; ``vectors[rows[i]]`` is the vector of text ``i``."""
    if request.encoding_format == "base64":
        packed = [base64.b64encode(vector).decode() for vector in vectors.astype("<f4", copy=False)]
    else:
        packed = vectors.tolist()
    data = [{"object": "embedding", "index": index, "embedding": packed[row]} for index, row in enumerate(rows)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return msgspec.json.encode({"object": "list", "data": data, "model": request.model, "usage": usage})


def encode_models(model: str) -> bytes:
    """The list of models; this server has one."""
    return msgspec.json.encode({"object": "list", "data": [{"id": model, "object": "model", "owned_by": "millrace"}]})
