"""BERT on a CPU without padding: all tokens of a batch form one matrix, so no time is spent on padding tokens.

sentence-transformers pads every text of a batch to the longest one, and its imports (scikit-learn, pandas, pyarrow)
take memory. This module reads the same model folder with torch alone. Its vectors equal the library's up to rounding,
which tests/contract/test_embedder.py verifies. Why it exists: docs/adr/0010-unpadded-bert.md.
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
import torch  # noqa: TID253 # torch's leaf file
import torch.nn.functional as F  # noqa: N812, TID253 # the customary name
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor  # noqa: TID253

from include.embedding_server.engine import Tokens
from include.embedding_server.samples import SAMPLES
from include.embedding_server.settings import PrecisionChoice

#: bfloat16 weights are used only if every sample's vector stays this close to float32 and the speedup is worth it.
MIN_COSINE = 0.99992
MIN_SPEEDUP = 1.15

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
    attention_output: _Linear
    attention_norm: _Norm
    up: _Linear
    down: _Linear
    output_norm: _Norm


@dataclass(frozen=True, slots=True)
class _Embeddings:
    words: Tensor
    #: The segment vector is added already: every text is in segment 0.
    positions: Tensor
    norm: _Norm


@dataclass(frozen=True, slots=True)
class _Group:
    """``count`` consecutive texts of ``length`` tokens each; ``start`` is their first row in the matrix."""

    start: int
    count: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.count * self.length


class UnpaddedBert:
    """The Engine port for BERT models with mean pooling."""

    #: Enough rows for matrix products at full speed, few enough for intermediate results to stay in the cache.
    batch_tokens = 1024

    def __init__(self, path: Path, workers: int) -> None:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        max_length = json.loads((path / "sentence_bert_config.json").read_text(encoding="utf-8"))["max_seq_length"]
        self.workers = workers
        self.dimension: int = config["hidden_size"]
        self._heads: int = config["num_attention_heads"]
        self._precision = torch.float32
        self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(min(max_length, config["max_position_embeddings"]))
        weights = load_file(path / "model.safetensors")
        epsilon = float(config["layer_norm_eps"])
        self._embeddings = _read_embeddings(weights, epsilon)
        self._layers = [_read_layer(weights, number, epsilon) for number in range(config["num_hidden_layers"])]

    @property
    def description(self) -> str:
        return f"unpadded BERT on {self.workers} CPU threads, {str(self._precision).removeprefix('torch.')} weights"

    def with_precision(self, precision: torch.dtype) -> UnpaddedBert:
        """A copy whose layers multiply in ``precision``. Residual sums and norms stay in float32."""
        other = object.__new__(UnpaddedBert)
        other.__dict__.update(self.__dict__)
        other._precision = precision
        other._layers = [
            _Layer(
                qkv=layer.qkv.to(precision),
                attention_output=layer.attention_output.to(precision),
                attention_norm=layer.attention_norm,
                up=layer.up.to(precision),
                down=layer.down.to(precision),
                output_norm=layer.output_norm,
            )
            for layer in self._layers
        ]
        return other

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def embed(self, batch: Sequence[Tokens]) -> np.ndarray:
        """Consecutive texts of equal length share one attention call: fastest if the batch is sorted by length."""
        groups = _group_by_length(batch)
        with torch.inference_mode():
            rows = self._embed_tokens(batch)
            for layer in self._layers:
                rows = self._apply(layer, rows, groups)
            means = [rows[g.start : g.end].view(g.count, g.length, -1).mean(1) for g in groups]
            vectors: np.ndarray = F.normalize(torch.cat(means), dim=1).numpy()
        return vectors

    def _embed_tokens(self, batch: Sequence[Tokens]) -> Tensor:
        words = torch.tensor([token for tokens in batch for token in tokens])
        positions = torch.tensor([position for tokens in batch for position in range(len(tokens))])
        embeddings = self._embeddings
        return embeddings.norm(embeddings.words[words] + embeddings.positions[positions])

    def _apply(self, layer: _Layer, rows: Tensor, groups: Sequence[_Group]) -> Tensor:
        attention = layer.attention_output(self._attend(layer.qkv(rows.to(self._precision)), groups))
        rows = layer.attention_norm(attention.float() + rows)
        feed_forward = layer.down(F.gelu(layer.up(rows.to(self._precision))))
        return layer.output_norm(feed_forward.float() + rows)

    def _attend(self, qkv: Tensor, groups: Sequence[_Group]) -> Tensor:
        """Each text attends to its own tokens only; the texts of a group are computed in one call."""
        attention = torch.empty((len(qkv), self.dimension), dtype=qkv.dtype)
        for group in groups:
            split = qkv[group.start : group.end].view(group.count, group.length, 3, self._heads, -1)
            query, key, value = split.permute(2, 0, 3, 1, 4)
            heads = F.scaled_dot_product_attention(query, key, value)
            attention[group.start : group.end].view(group.count, group.length, self._heads, -1).copy_(
                heads.transpose(1, 2)
            )
        return attention


def load_fastest(path: Path, threads: int, precision: PrecisionChoice) -> UnpaddedBert:
    """Load the model in ``precision``; ``auto`` is the fastest one that does not change the vectors noticeably.

    torch gets one thread, and ``threads`` workers compute separate batches in parallel: threads that share every
    matrix product wait for each other, and on a busy machine the wait takes longer than the product.
    """
    torch.set_num_threads(1)
    exact = UnpaddedBert(path, threads)
    if precision == "float32" or (precision == "auto" and not _supports_bfloat16()):
        return exact
    reduced = exact.with_precision(torch.bfloat16)
    if precision == "bfloat16":
        return reduced
    samples = sorted(exact.tokenize(SAMPLES), key=len)
    expected = exact.embed(samples)
    cosine = float((expected * reduced.embed(samples)).sum(axis=1).min())
    speedup = _measure_seconds(lambda: exact.embed(samples)) / _measure_seconds(lambda: reduced.embed(samples))
    _LOG.info("bfloat16 weights: %.2f times the speed of float32, smallest cosine %.6f", speedup, cosine)
    return reduced if speedup >= MIN_SPEEDUP and cosine >= MIN_COSINE else exact


def _supports_bfloat16() -> bool:
    """Whether the CPU has bfloat16 instructions. Without them even the benchmark would be slow."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def _measure_seconds(work: Callable[[], object]) -> float:
    """The fastest of a few runs: the one that other processes disturbed least."""
    durations = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        durations.append(time.perf_counter() - started)
    return min(durations)


def _group_by_length(batch: Sequence[Tokens]) -> list[_Group]:
    groups, start = [], 0
    for length, texts in groupby(batch, key=len):
        groups.append(_Group(start, sum(1 for _ in texts), length))
        start = groups[-1].end
    return groups


def _read_embeddings(weights: Mapping[str, Tensor], epsilon: float) -> _Embeddings:
    segment = weights["embeddings.token_type_embeddings.weight"][0]
    return _Embeddings(
        words=weights["embeddings.word_embeddings.weight"],
        positions=weights["embeddings.position_embeddings.weight"] + segment,
        norm=_read_norm(weights, "embeddings.LayerNorm", epsilon),
    )


def _read_layer(weights: Mapping[str, Tensor], number: int, epsilon: float) -> _Layer:
    prefix = f"encoder.layer.{number}"
    parts = [_read_linear(weights, f"{prefix}.attention.self.{part}") for part in ("query", "key", "value")]
    return _Layer(
        qkv=_Linear(torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])),
        attention_output=_read_linear(weights, f"{prefix}.attention.output.dense"),
        attention_norm=_read_norm(weights, f"{prefix}.attention.output.LayerNorm", epsilon),
        up=_read_linear(weights, f"{prefix}.intermediate.dense"),
        down=_read_linear(weights, f"{prefix}.output.dense"),
        output_norm=_read_norm(weights, f"{prefix}.output.LayerNorm", epsilon),
    )


def _read_linear(weights: Mapping[str, Tensor], name: str) -> _Linear:
    return _Linear(weights[f"{name}.weight"], weights[f"{name}.bias"])


def _read_norm(weights: Mapping[str, Tensor], name: str, epsilon: float) -> _Norm:
    return _Norm(weights[f"{name}.weight"], weights[f"{name}.bias"], epsilon)
