"""The Embedder port, held by one suite in memory and on the real server; and the server's vectors, held by
sentence-transformers."""

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
from include.embedders.openai import TEXTS_PER_REQUEST, OpenAIEmbedder
from include.embedding_server.samples import SAMPLES
from include.errors import PermanentError, TransientError
from include.ports import Embedder
from include.settings import EmbedSettings

if TYPE_CHECKING:
    from tests.contract.conftest import Servers

pytestmark = pytest.mark.servers("embed")

LEAST_COSINE = 0.9999

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
    """Each embedder in turn."""
    if request.param == "memory":
        yield MemoryEmbedder()
        return
    made = OpenAIEmbedder(request.getfixturevalue("settings"))
    yield made
    made.close()


def words(count: int, seed: int = 0) -> list[str]:
    """Distinct texts of 1 to 30 words, the same in every run."""
    rng = random.Random(seed)
    stock = " ".join(SAMPLES[:15]).split()
    return [f"{number} " + " ".join(rng.choices(stock, k=rng.randint(1, 30))) for number in range(count)]


def least_cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float((one * other).sum(axis=1).min())


def test_vectors_are_unit_rows_of_float32(embedder: Embedder) -> None:
    """As many rows as texts, of the generation's dimension, each of length one."""
    texts = words(50) + ODD
    vectors = embedder.embed(texts)
    assert vectors.shape == (len(texts), embedder.generation.dimension)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_no_texts_give_no_rows(embedder: Embedder) -> None:
    """An empty list is no error."""
    assert embedder.embed([]).shape == (0, embedder.generation.dimension)


def test_order_is_kept_whatever_the_companions(embedder: Embedder) -> None:
    """A text has one vector: in any order, in any company, in any call."""
    texts = words(2 * TEXTS_PER_REQUEST + 7, seed=1) + ODD
    vectors = embedder.embed(texts)
    order = random.Random(2).sample(range(len(texts)), len(texts))
    assert least_cosine(embedder.embed([texts[row] for row in order]), vectors[order]) > LEAST_COSINE
    alone = np.concatenate([embedder.embed([text]) for text in texts[::20]])
    assert least_cosine(alone, vectors[::20]) > LEAST_COSINE


def test_duplicates_have_one_vector(embedder: Embedder) -> None:
    """A text asked for twice in one call is given twice, the same."""
    one, other, again = embedder.embed(["blue lamp", "red lamp", "blue lamp"])
    assert np.array_equal(one, again)
    assert not np.allclose(one, other)


def test_texts_with_words_in_common_are_nearer(embedder: Embedder) -> None:
    """Vectors say something of their texts."""
    lamp, lamps, lorry = embedder.embed(["a white table lamp", "the white lamp", "used diesel engine"])
    assert lamp @ lamps > lamp @ lorry


def test_very_long_texts_are_taken(embedder: Embedder) -> None:
    """What is longer than the model reads is cut, not refused."""
    assert np.isfinite(embedder.embed([*LONG, "short"])).all()


class TestServer:
    """The real server alone."""

    def test_vectors_are_those_of_sentence_transformers(self, settings: EmbedSettings, reference: Reference) -> None:
        """On ordinary, odd and long texts alike, for each single text."""
        texts = [*words(150, seed=3), *ODD, *SAMPLES, *(text[:5_000] for text in LONG), "", " "]
        client = OpenAIEmbedder(settings)
        assert least_cosine(client.embed(texts), reference(texts)) > LEAST_COSINE
        client.close()

    def test_a_wrong_key_is_named(self, settings: EmbedSettings) -> None:
        """A key that the server does not know stops the task at once."""
        with (
            closing(OpenAIEmbedder(replace(settings, api_key="wrong"))) as client,
            pytest.raises(PermanentError, match="MILLRACE_EMBED_API_KEY"),
        ):
            client.embed(["a"])

    def test_an_unknown_model_is_named(self, settings: EmbedSettings) -> None:
        """A model that the server does not have stops the task at once."""
        with (
            closing(OpenAIEmbedder(replace(settings, model="other-model"))) as client,
            pytest.raises(PermanentError, match="other-model"),
        ):
            client.embed(["a"])

    def test_a_wrong_dimension_is_named(self, settings: EmbedSettings) -> None:
        """Vectors of another length than the settings say are never stored."""
        with (
            closing(OpenAIEmbedder(replace(settings, dimension=768))) as client,
            pytest.raises(PermanentError, match="dimension"),
        ):
            client.embed(["a"])

    def test_floats_and_base64_are_the_same_vectors(self, settings: EmbedSettings) -> None:
        """Other clients ask for lists of numbers and get what ours gets."""
        body = {"model": settings.model, "input": "a blue lamp"}
        headers = {"Authorization": f"Bearer {settings.api_key}"}
        answer = httpx.post(f"{settings.url}/embeddings", json=body, headers=headers, trust_env=False, timeout=30)
        client = OpenAIEmbedder(settings)
        assert np.allclose(answer.json()["data"][0]["embedding"], client.embed(["a blue lamp"])[0], atol=1e-6)
        client.close()


type Reference = Callable[[list[str]], np.ndarray]


@pytest.fixture(scope="module")
def model() -> Any:
    """sentence-transformers as it comes, in this process."""
    from include.embedding_server.load import packaged_model

    os.environ["HF_HUB_OFFLINE"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(packaged_model()), device="cpu")


@pytest.fixture(scope="module")
def reference(model: Any) -> Reference:
    """The vectors that the library gives."""
    return lambda texts: model.encode(texts, normalize_embeddings=True, show_progress_bar=False)


class TestEngines:
    """The kinds of engine that the server may choose, in this process."""

    @pytest.mark.parametrize("kind", ["library", "float32", "bfloat16"])
    def test_every_engine_gives_the_same_vectors(self, kind: str, reference: Reference) -> None:
        """Whatever the server chooses at start, the vectors are those of the library."""
        from include.embedding_server import library, unpadded
        from include.embedding_server.engine import Engine
        from include.embedding_server.load import packaged_model

        engine: Engine
        if kind == "library":
            engine = library.LibraryEngine(packaged_model(), 2)
        else:
            engine = unpadded.load_fastest(packaged_model(), 1, kind)  # type: ignore[arg-type]
        tokens = engine.tokenize(SAMPLES)
        assert least_cosine(engine.embed(tokens), reference(list(SAMPLES))) > LEAST_COSINE

    def test_the_packaged_model_is_known_as_plain_bert(self) -> None:
        """The default model gets the quick engine on a CPU."""
        from include.embedding_server.load import is_plain_bert, packaged_model

        assert is_plain_bert(packaged_model())


@pytest.fixture
def own_server() -> Iterator[tuple[subprocess.Popen[bytes], EmbedSettings]]:
    """A server of one test's own, just started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "MILLRACE_EMBED_SERVER_PORT": str(port), "MILLRACE_EMBED_API_KEY": ""}
    process = subprocess.Popen([sys.executable, "-m", "include.embedding_server"], env=environment)
    yield process, EmbedSettings(f"http://127.0.0.1:{port}/v1")
    process.kill()
    process.wait()


def test_the_server_loads_serves_and_ends_on_sigterm(
    own_server: tuple[subprocess.Popen[bytes], EmbedSettings],
) -> None:
    """It refuses while it loads, answers what it has taken on before it ends, and ends soon with exit code 0."""
    process, settings = own_server
    client = OpenAIEmbedder(settings)
    answers: set[str] = set()
    deadline = time.monotonic() + 200
    while "ready" not in answers and time.monotonic() < deadline:
        try:
            client.embed(["ready?"])
            answers.add("ready")
        except TransientError as exc:
            answers.add("loading" if "being loaded" in str(exc) else "not there yet")
            time.sleep(0.3)
    assert answers >= {"loading", "ready"}
    found: list[np.ndarray] = []
    asking = Thread(target=lambda: found.append(client.embed(words(100, seed=4))))
    asking.start()
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    asking.join()
    assert process.wait(20) == 0
    assert len(found) == 1
    client.close()
