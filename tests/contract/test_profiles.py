"""The Profiles port, in memory and on Milvus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from include.errors import TransientError
from include.ports import Profiles
from include.settings import MilvusSettings
from tests.contract.batches import GENERATION, vector_of
from tests.contract.sink_suite import ODD_IDS


@pytest.fixture(params=["memory", pytest.param("milvus", marks=pytest.mark.servers("milvus"))])
def profiles(request: pytest.FixtureRequest) -> Iterator[Profiles]:
    """A port without any profiles."""
    if request.param == "memory":
        from include.stores.memory_vectors import MemoryProfiles

        yield MemoryProfiles()
    else:
        from include.stores.milvus import MilvusProfiles

        settings: MilvusSettings = request.getfixturevalue("milvus_settings")
        with closing(MilvusProfiles(settings, GENERATION)) as milvus:
            yield milvus


def _vectors(*names: str) -> np.ndarray:
    return np.stack([vector_of(name) for name in names])


def test_profiles_can_be_read_back(profiles: Profiles) -> None:
    """Vectors are returned unchanged, and users without one are omitted."""
    users = ["a", "b", "c"]
    profiles.put(users, _vectors(*users))
    vectors = profiles.get(["c", "nobody", "a"])
    assert vectors.keys() == {"a", "c"}
    np.testing.assert_array_equal(vectors["a"], vector_of("a"))
    assert vectors["a"].dtype == np.float32


def test_a_new_profile_replaces_the_old_one(profiles: Profiles) -> None:
    """Each user has one vector, the last one written, even within one call."""
    profiles.put(["a", "b", "a"], _vectors("old", "b", "new"))
    np.testing.assert_array_equal(profiles.get(["a"])["a"], vector_of("new"))
    profiles.put(["a"], _vectors("newer"))
    assert [user for user, _ in profiles.search(_vectors("newer"), 5)[0]] == _by_cosine("newer", a="newer", b="b")


def _by_cosine(query: str, **texts: str) -> list[str]:
    return sorted(texts, key=lambda user: -float(vector_of(query) @ vector_of(texts[user])))


def test_similar_users_are_sorted_by_cosine(profiles: Profiles) -> None:
    """Each row of the result belongs to the query vector in the same position; results have their cosines."""
    users = [f"u{n}" for n in range(50)]
    stored = _vectors(*users)
    profiles.put(users, stored)
    results = profiles.search(stored[:3], 10)
    cosines = stored[:3] @ stored.T
    for row, result in enumerate(results):
        assert [user for user, _ in result] == [users[i] for i in np.argsort(-cosines[row])[:10]]
        np.testing.assert_allclose([value for _, value in result], np.sort(cosines[row])[::-1][:10], atol=1e-5)


def test_the_length_of_a_vector_is_irrelevant(profiles: Profiles) -> None:
    """Similarity is the cosine, for stored vectors and for queries."""
    profiles.put(["long", "short"], np.stack([10 * vector_of("a"), 0.1 * vector_of("b")]))
    for query in (vector_of("b"), 7 * vector_of("b")):
        best, cosine = profiles.search(query[np.newaxis], 1)[0][0]
        assert (best, round(cosine, 4)) == ("short", 1.0)


def test_there_may_be_fewer_users_than_the_limit(profiles: Profiles) -> None:
    """Without profiles a result is empty, with two profiles it has two; no queries have no results."""
    assert profiles.search(_vectors("a", "b"), 3) == [[], []]
    profiles.put(["a", "b"], _vectors("a", "b"))
    assert [len(result) for result in profiles.search(_vectors("a"), 3)] == [2]
    assert list(profiles.search(np.empty((0, GENERATION.dimension), np.float32), 3)) == []
    assert profiles.get([]) == {}


def test_a_deleted_profile_is_nobodys_neighbour(profiles: Profiles) -> None:
    """A deleted profile is neither read nor found, other users keep theirs, and deleting it again changes nothing."""
    users = [*ODD_IDS, "stays"]
    profiles.put(users, _vectors(*users))
    for _ in range(2):
        profiles.delete([*ODD_IDS, "never stored"])
        assert profiles.get(users).keys() == {"stays"}
        assert [user for user, _ in profiles.search(_vectors(ODD_IDS[0]), 5)[0]] == ["stays"]
    profiles.delete([])
    profiles.put(ODD_IDS[:1], _vectors("again"))
    np.testing.assert_array_equal(profiles.get(ODD_IDS)[ODD_IDS[0]], vector_of("again"))


def test_user_ids_are_returned_unchanged(profiles: Profiles) -> None:
    """Operators, quotes and escapes in a user's id are plain text."""
    profiles.put(ODD_IDS, _vectors(*ODD_IDS))
    vectors = profiles.get(ODD_IDS)
    assert vectors.keys() == set(ODD_IDS)
    for odd in ODD_IDS:
        np.testing.assert_array_equal(vectors[odd], vector_of(odd))
        assert profiles.get([odd]).keys() == {odd}
        assert profiles.search(_vectors(odd), 1)[0][0][0] == odd


def test_many_profiles_are_written_and_searched(profiles: Profiles) -> None:
    """The results of several requests are complete and in order."""
    users = [f"u{n}" for n in range(6_000)]
    vectors = np.random.default_rng(1).standard_normal((6_000, GENERATION.dimension)).astype(np.float32)
    profiles.put(users, vectors)
    assert profiles.get(users).keys() == set(users)
    results = profiles.search(vectors[:1_200], 2)
    assert [result[0][0] for result in results] == users[:1_200]


@pytest.mark.servers("milvus")
def test_a_new_generation_leaves_the_first_one_alone(milvus_settings: MilvusSettings) -> None:
    """A second generation fills a collection of its own; the alias and the first collection stay as they are."""
    from pymilvus import MilvusClient

    from include.domain.generation import Generation
    from include.stores.milvus import MilvusProfiles

    first, second = Generation("one", "1", 8), Generation("two", "1", 8)
    client: Any = MilvusClient(milvus_settings.uri, timeout=10)
    with closing(client), closing(MilvusProfiles(milvus_settings, first)) as old:
        old.put(["a"], _vectors("a"))
        with closing(MilvusProfiles(milvus_settings, second)) as new:
            new.put(["b"], _vectors("b"))
            assert _aliased(client, milvus_settings.profile_collection) == ["a"]
            assert new.get(["a", "b"]).keys() == {"b"}
            assert old.get(["a"]).keys() == {"a"}


def _aliased(client: Any, alias: str) -> list[str]:
    rows = client.query(alias, filter='id != ""', output_fields=["id"], consistency_level="Strong", timeout=10)
    return [row["id"] for row in rows]


def test_an_unavailable_milvus_is_transient() -> None:
    """The error comes within a bounded time, and the task is retried."""
    from include.stores.milvus import MilvusProfiles

    with pytest.raises(TransientError):
        MilvusProfiles(MilvusSettings("http://127.0.0.1:1"), GENERATION)
