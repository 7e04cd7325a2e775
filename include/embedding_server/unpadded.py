"""BERT on a CPU without padding: all tokens of a batch are one matrix, so that no time goes into filling.

sentence-transformers pads every text of a batch to the longest and holds its own imports (scikit-learn, pandas,
pyarrow) in memory. This reads the same folder with torch alone. The vectors are the library's to within rounding;
tests/contract/test_embedder.py holds that.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch  # noqa: TID253 # this is torch's leaf file
import torch.nn.functional as F  # noqa: N812, TID253 # its name everywhere
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor  # noqa: TID253

from include.embedding_server.engine import Tokens
from include.embedding_server.samples import SAMPLES
from include.embedding_server.settings import PrecisionChoice

#: Short weights are taken only if they are clearly quicker and no sample's vector moves more than this.
LEAST_COSINE = 0.99992
LEAST_GAIN = 1.15

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Linear:
    weight: Tensor
    bias: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        return F.linear(rows, self.weight, self.bias)

    def to(self, precision: torch.dtype) -> _Linear:
        return _Linear(self.weight.to(precision), self.bias.to(precision))


@dataclass(frozen=True, slots=True)
class _Norm:
    weight: Tensor
    bias: Tensor
    epsilon: float

    def __call__(self, rows: Tensor) -> Tensor:
        return F.layer_norm(rows, self.weight.shape, self.weight, self.bias, self.epsilon)


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: _Linear
    attended: _Linear
    attended_norm: _Norm
    up: _Linear
    down: _Linear
    down_norm: _Norm


@dataclass(frozen=True, slots=True)
class _Embeddings:
    words: Tensor
    #: The vector of the position plus that of the only segment there is.
    places: Tensor
    norm: _Norm


@dataclass(frozen=True, slots=True)
class _Group:
    """``count`` texts of ``length`` tokens each, from row ``start`` of the matrix on."""

    start: int
    count: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.count * self.length


class UnpaddedBert:
    """The Engine port for BERT models with mean pooling."""

    #: Enough rows for the matrix products to run at full speed, few enough for the intermediate ones to stay in cache.
    batch_tokens = 1024

    def __init__(self, path: Path, workers: int) -> None:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        longest = json.loads((path / "sentence_bert_config.json").read_text(encoding="utf-8"))["max_seq_length"]
        self.workers = workers
        self.dimension: int = config["hidden_size"]
        self._heads: int = config["num_attention_heads"]
        self._precision = torch.float32
        self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(min(longest, config["max_position_embeddings"]))
        weights = load_file(path / "model.safetensors")
        epsilon = float(config["layer_norm_eps"])
        self._embeddings = _read_embeddings(weights, epsilon)
        self._layers = [_read_layer(weights, number, epsilon) for number in range(config["num_hidden_layers"])]

    @property
    def description(self) -> str:
        return f"unpadded BERT on {self.workers} CPU threads, {str(self._precision).removeprefix('torch.')} weights"

    def shortened(self, precision: torch.dtype) -> UnpaddedBert:
        """The same model with the matrices of its layers in another precision; sums and norms stay as they are."""
        other = object.__new__(UnpaddedBert)
        other.__dict__.update(self.__dict__)
        other._precision = precision
        other._layers = [
            _Layer(
                qkv=layer.qkv.to(precision),
                attended=layer.attended.to(precision),
                attended_norm=layer.attended_norm,
                up=layer.up.to(precision),
                down=layer.down.to(precision),
                down_norm=layer.down_norm,
            )
            for layer in self._layers
        ]
        return other

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def embed(self, batch: Sequence[Tokens]) -> np.ndarray:
        """Texts of one length next to each other share their attention: quickest when sorted by length."""
        groups = _groups(batch)
        with torch.inference_mode():
            rows = self._embed_tokens(batch)
            for layer in self._layers:
                rows = self._apply(layer, rows, groups)
            means = [rows[g.start : g.end].view(g.count, g.length, -1).mean(1) for g in groups]
            vectors: np.ndarray = F.normalize(torch.cat(means), dim=1).numpy()
        return vectors

    def _embed_tokens(self, batch: Sequence[Tokens]) -> Tensor:
        words = torch.tensor([token for tokens in batch for token in tokens])
        places = torch.tensor([place for tokens in batch for place in range(len(tokens))])
        embeddings = self._embeddings
        return embeddings.norm(embeddings.words[words] + embeddings.places[places])

    def _apply(self, layer: _Layer, rows: Tensor, groups: Sequence[_Group]) -> Tensor:
        attended = layer.attended(self._attention(layer.qkv(rows.to(self._precision)), groups))
        rows = layer.attended_norm(attended.float() + rows)
        fed = layer.down(F.gelu(layer.up(rows.to(self._precision))))
        return layer.down_norm(fed.float() + rows)

    def _attention(self, qkv: Tensor, groups: Sequence[_Group]) -> Tensor:
        """Each text looks at its own tokens only; the texts of a group are looked at together."""
        attended = torch.empty((len(qkv), self.dimension), dtype=qkv.dtype)
        for group in groups:
            split = qkv[group.start : group.end].view(group.count, group.length, 3, self._heads, -1)
            query, key, value = split.permute(2, 0, 3, 1, 4)
            seen = F.scaled_dot_product_attention(query, key, value)
            attended[group.start : group.end].view(group.count, group.length, self._heads, -1).copy_(
                seen.transpose(1, 2)
            )
        return attended


def load_fastest(path: Path, threads: int, precision: PrecisionChoice) -> UnpaddedBert:
    """The model in the precision that is wanted, or in the quickest one that leaves its vectors as they are.

    Each of ``threads`` callers computes a batch of its own: side by side they need no waiting for each other
    within every product, which on a busy machine costs more than the product.
    """
    torch.set_num_threads(1)
    exact = UnpaddedBert(path, threads)
    if precision == "float32" or (precision == "auto" and not _multiplies_bfloat16()):
        return exact
    short = exact.shortened(torch.bfloat16)
    if precision == "bfloat16":
        return short
    samples = sorted(exact.tokenize(SAMPLES), key=len)
    expected = exact.embed(samples)
    cosine = float((expected * short.embed(samples)).sum(axis=1).min())
    gain = _seconds(lambda: exact.embed(samples)) / _seconds(lambda: short.embed(samples))
    _LOG.info("bfloat16 weights: %.2f times the speed of float32, least cosine %.6f", gain, cosine)
    return short if gain >= LEAST_GAIN and cosine >= LEAST_COSINE else exact


def _multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for it. Without them it would only be slow to find that out."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def _seconds(work: Callable[[], object]) -> float:
    """The least of a few runs: the others were disturbed."""
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


def _groups(batch: Sequence[Tokens]) -> list[_Group]:
    groups, start = [], 0
    for length, same in groupby(batch, key=len):
        groups.append(_Group(start, sum(1 for _ in same), length))
        start = groups[-1].end
    return groups


def _read_embeddings(weights: Mapping[str, Tensor], epsilon: float) -> _Embeddings:
    segment = weights["embeddings.token_type_embeddings.weight"][0]
    return _Embeddings(
        words=weights["embeddings.word_embeddings.weight"],
        places=weights["embeddings.position_embeddings.weight"] + segment,
        norm=_read_norm(weights, "embeddings.LayerNorm", epsilon),
    )


def _read_layer(weights: Mapping[str, Tensor], number: int, epsilon: float) -> _Layer:
    prefix = f"encoder.layer.{number}"
    parts = [_read_linear(weights, f"{prefix}.attention.self.{part}") for part in ("query", "key", "value")]
    return _Layer(
        qkv=_Linear(torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])),
        attended=_read_linear(weights, f"{prefix}.attention.output.dense"),
        attended_norm=_read_norm(weights, f"{prefix}.attention.output.LayerNorm", epsilon),
        up=_read_linear(weights, f"{prefix}.intermediate.dense"),
        down=_read_linear(weights, f"{prefix}.output.dense"),
        down_norm=_read_norm(weights, f"{prefix}.output.LayerNorm", epsilon),
    )


def _read_linear(weights: Mapping[str, Tensor], name: str) -> _Linear:
    return _Linear(weights[f"{name}.weight"], weights[f"{name}.bias"])


def _read_norm(weights: Mapping[str, Tensor], name: str, epsilon: float) -> _Norm:
    return _Norm(weights[f"{name}.weight"], weights[f"{name}.bias"], epsilon)
