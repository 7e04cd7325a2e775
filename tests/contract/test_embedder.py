"""The Embedder port in memory and on the real server, and the server's vectors against sentence-transformers."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from threading import Thread
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from include.embedders.memory import MemoryEmbedder
from include.embedders.openai import MAX_TEXTS_PER_REQUEST, OpenAIEmbedder
from include.embedding_server.samples import SAMPLES
from include.errors import PermanentError, TransientError
from include.ports import Embedder
from include.settings import EmbedSettings

if TYPE_CHECKING:
    from tests.contract.conftest import Servers

pytestmark = pytest.mark.servers("embed")

MIN_COSINE = 0.9999

ODD = [
    "你好,世界", "こんにちは", "😀🎁", "e\u0301", "é", "a\tb\nc", "\u2028", "\x01", "ﬁ", "ß", "İ", "\u200b", "x" * 500,
    "العربية", "1e400", "null", '"quoted"', "back\\slash", "<b>html</b>", "[SEP] [CLS]", "\U0010ffff",
]  # fmt: skip
LONG = ["word " * 40_000, "没有空格" * 20_000, "😀" * 50_000]


@pytest.fixture(scope="module")
def settings(servers: Servers) -> EmbedSettings:
    """The local embedding server."""
    environment = servers.environment("embed")
    return EmbedSettings(environment["MILLRACE_EMBED_URL"], api_key=environment["MILLRACE_EMBED_API_KEY"])


@pytest.fixture(params=["memory", "real"])
def embedder(request: pytest.FixtureRequest) -> Iterator[Embedder]:
    """Every implementation of the port."""
    if request.param == "memory":
        yield MemoryEmbedder()
        return
    with closing(OpenAIEmbedder(request.getfixturevalue("settings"))) as client:
        yield client


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Distinct texts of 1 to 30 words, the same in every run."""
    rng = random.Random(seed)
    vocabulary = " ".join(SAMPLES[:15]).split()
    return [f"{number} " + " ".join(rng.choices(vocabulary, k=rng.randint(1, 30))) for number in range(count)]


def smallest_cosine(one: np.ndarray, other: np.ndarray) -> float:
    """The smallest cosine between the same rows of two matrices of unit vectors."""
    return float((one * other).sum(axis=1).min())


def test_vectors_are_unit_rows_of_float32(embedder: Embedder) -> None:
    """There is one row per text, of the generation's dimension and of length one."""
    texts = random_texts(50) + ODD
    vectors = embedder.embed(texts)
    assert vectors.shape == (len(texts), embedder.generation.dimension)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_no_texts_give_no_rows(embedder: Embedder) -> None:
    """An empty list gives an empty matrix."""
    assert embedder.embed([]).shape == (0, embedder.generation.dimension)


def test_a_vector_depends_only_on_its_text(embedder: Embedder) -> None:
    """A text has the same vector in any order, with any other texts and in any call."""
    texts = random_texts(2 * MAX_TEXTS_PER_REQUEST + 7, seed=1) + ODD
    vectors = embedder.embed(texts)
    order = random.Random(2).sample(range(len(texts)), len(texts))
    assert smallest_cosine(embedder.embed([texts[row] for row in order]), vectors[order]) > MIN_COSINE
    alone = np.concatenate([embedder.embed([text]) for text in texts[::20]])
    assert smallest_cosine(alone, vectors[::20]) > MIN_COSINE


def test_duplicates_have_the_same_vector(embedder: Embedder) -> None:
    """A text that occurs twice in a call gets identical vectors."""
    first, other, second = embedder.embed(["blue lamp", "red lamp", "blue lamp"])
    assert np.array_equal(first, second)
    assert not np.allclose(first, other)


def test_texts_with_common_words_are_more_similar(embedder: Embedder) -> None:
    """Vectors carry the meaning of their texts."""
    lamp, lamps, lorry = embedder.embed(["a white table lamp", "the white lamp", "used diesel engine"])
    assert lamp @ lamps > lamp @ lorry


def test_very_long_texts_are_accepted(embedder: Embedder) -> None:
    """A text beyond the model's maximum length is truncated, not refused."""
    assert np.isfinite(embedder.embed([*LONG, "short"])).all()


class TestServer:
    """What only the real server can show."""

    def test_vectors_equal_those_of_sentence_transformers(self, settings: EmbedSettings, reference: Reference) -> None:
        """Every vector matches the library's, on ordinary, odd and long texts."""
        texts = [*random_texts(150, seed=3), *ODD, *SAMPLES, *(text[:5_000] for text in LONG), "", " "]
        with closing(OpenAIEmbedder(settings)) as client:
            assert smallest_cosine(client.embed(texts), reference(texts)) > MIN_COSINE

    def test_a_wrong_key_is_named(self, settings: EmbedSettings) -> None:
        """An unknown key is a permanent error that names the setting."""
        with (
            closing(OpenAIEmbedder(replace(settings, api_key="wrong"))) as client,
            pytest.raises(PermanentError, match="MILLRACE_EMBED_API_KEY"),
        ):
            client.embed(["a"])

    def test_an_unknown_model_is_named(self, settings: EmbedSettings) -> None:
        """A model that the server does not serve is a permanent error that names it."""
        with (
            closing(OpenAIEmbedder(replace(settings, model="other-model"))) as client,
            pytest.raises(PermanentError, match="other-model"),
        ):
            client.embed(["a"])

    def test_a_wrong_dimension_is_named(self, settings: EmbedSettings) -> None:
        """Vectors of another dimension than configured are refused, so that they are never stored."""
        with (
            closing(OpenAIEmbedder(replace(settings, dimension=768))) as client,
            pytest.raises(PermanentError, match=r"set to 768 \(MILLRACE_EMBED_DIMENSION"),
        ):
            client.embed(["a"])

    def test_floats_and_base64_encode_the_same_vectors(self, settings: EmbedSettings) -> None:
        """Clients that request lists of numbers get the same vectors as Millrace's client."""
        body = {"model": settings.model, "input": "a blue lamp"}
        headers = {"Authorization": f"Bearer {settings.api_key}"}
        response = httpx.post(f"{settings.url}/embeddings", json=body, headers=headers, trust_env=False, timeout=30)
        with closing(OpenAIEmbedder(settings)) as client:
            vector = client.embed(["a blue lamp"])[0]
        assert np.allclose(response.json()["data"][0]["embedding"], vector, atol=1e-6)


type Reference = Callable[[list[str]], np.ndarray]


@pytest.fixture(scope="module")
def model() -> Any:
    """sentence-transformers with its defaults, in this process."""
    from include.embedding_server.load import packaged_model

    os.environ["HF_HUB_OFFLINE"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(packaged_model()), device="cpu")


@pytest.fixture(scope="module")
def reference(model: Any) -> Reference:
    """The vectors that the library computes."""
    return lambda texts: model.encode(texts, normalize_embeddings=True, show_progress_bar=False)


class TestEngines:
    """Every engine that the server may choose, in this process."""

    @pytest.mark.parametrize("kind", ["library", "float32", "bfloat16"])
    def test_every_engine_computes_the_same_vectors(self, kind: str, reference: Reference) -> None:
        """Whichever engine the server chooses at startup, its vectors equal the library's."""
        from include.embedding_server import library, unpadded
        from include.embedding_server.engine import Engine
        from include.embedding_server.load import packaged_model

        engine: Engine
        if kind == "library":
            engine = library.LibraryEngine(packaged_model(), 2)
        else:
            engine = unpadded.load_fastest(packaged_model(), 1, kind)  # type: ignore[arg-type]
        tokens = engine.tokenize(SAMPLES)
        assert smallest_cosine(engine.embed(tokens), reference(list(SAMPLES))) > MIN_COSINE

    def test_the_packaged_model_is_a_mean_pooled_bert(self) -> None:
        """The default model is recognised as one that the unpadded engine supports."""
        from include.embedding_server.load import is_mean_pooled_bert, packaged_model

        assert is_mean_pooled_bert(packaged_model())


@pytest.fixture
def new_server() -> Iterator[tuple[subprocess.Popen[bytes], EmbedSettings]]:
    """A server for one test, just started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "MILLRACE_EMBED_SERVER_PORT": str(port), "MILLRACE_EMBED_API_KEY": ""}
    process = subprocess.Popen([sys.executable, "-m", "include.embedding_server"], env=environment)
    yield process, EmbedSettings(f"http://127.0.0.1:{port}/v1")
    process.kill()
    process.wait()


def test_the_server_loads_serves_and_stops_on_sigterm(
    new_server: tuple[subprocess.Popen[bytes], EmbedSettings],
) -> None:
    """It returns 503 while it loads, finishes open requests after SIGTERM, and soon exits with code 0."""
    process, settings = new_server
    client = OpenAIEmbedder(settings)
    states: set[str] = set()
    deadline = time.monotonic() + 200
    while "ready" not in states and time.monotonic() < deadline:
        try:
            client.embed(["ready?"])
            states.add("ready")
        except TransientError as exc:
            states.add("loading" if "503 server_error loading" in str(exc) else "not listening")
            time.sleep(0.3)
    assert states >= {"loading", "ready"}
    results: list[np.ndarray] = []
    request = Thread(target=lambda: results.append(client.embed(random_texts(100, seed=4))))
    request.start()
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    request.join()
    assert process.wait(20) == 0
    assert len(results) == 1
    client.close()
