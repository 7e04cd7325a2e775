"""The OpenAI embeddings protocol: what requests must look like, and the bytes of answers and refusals."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

#: OpenAI's own limit of texts in a request, and one of ours on its bytes.
MAX_TEXTS = 2048
MAX_BODY = 32 * 1024 * 1024


class RefusedError(Exception):
    """A request that gets no vectors. ``status`` is HTTP's; ``kind``, ``code`` and ``param`` are the protocol's."""

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
    """What we take of a request; OpenAI's ``user`` and whatever else it holds is passed over."""

    model: str
    input: str | list[str]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


_DECODER = msgspec.json.Decoder(EmbeddingRequest)


def read_request(body: bytes, model: str, dimension: int) -> EmbeddingRequest:
    """The request in ``body``. Raises ``RefusedError`` saying what is wrong with it."""
    try:
        request = _DECODER.decode(body)
    except msgspec.ValidationError as exc:
        raise RefusedError(400, f"The request is not valid: {exc}. input must be a string or a list of them.") from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise RefusedError(400, f"The body is not valid JSON: {exc}.") from exc
    if request.model != model:
        raise RefusedError(404, f"The model {request.model!r} does not exist.", code="model_not_found", param="model")
    if request.dimensions not in (None, dimension):
        raise RefusedError(400, f"This model has {dimension} dimensions, no others.", param="dimensions")
    if not 1 <= len(request.texts) <= MAX_TEXTS:
        raise RefusedError(400, f"input must have 1 to {MAX_TEXTS} texts, not {len(request.texts)}.", param="input")
    return request


def write_embeddings(request: EmbeddingRequest, vectors: np.ndarray, rows: Sequence[int], tokens: int) -> bytes:
    """The answer: ``vectors[rows[i]]`` belongs to text ``i``."""
    if request.encoding_format == "base64":
        packed = [base64.b64encode(vector).decode() for vector in vectors.astype("<f4", copy=False)]
    else:
        packed = vectors.tolist()
    data = [{"object": "embedding", "index": index, "embedding": packed[row]} for index, row in enumerate(rows)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return msgspec.json.encode({"object": "list", "data": data, "model": request.model, "usage": usage})


def write_models(model: str) -> bytes:
    """The list of the one model there is."""
    return msgspec.json.encode({"object": "list", "data": [{"id": model, "object": "model", "owned_by": "millrace"}]})
