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
from tests.contract.test_sinks import ODD_IDS


@pytest.fixture(params=["memory", pytest.param("milvus", marks=pytest.mark.servers("milvus"))])
def profiles(request: pytest.FixtureRequest) -> Iterator[Profiles]:
    """No profiles yet."""
    if request.param == "memory":
        from include.stores.memory_vectors import MemoryProfiles

        yield MemoryProfiles()
    else:
        from include.stores.milvus import MilvusProfiles

        settings: MilvusSettings = request.getfixturevalue("milvus_settings")
        with closing(MilvusProfiles(settings, GENERATION)) as real:
            yield real


def _vectors(*names: str) -> np.ndarray:
    return np.stack([vector_of(name) for name in names])


def test_what_was_put_is_there(profiles: Profiles) -> None:
    """Vectors come back as they were, and users without one are left out."""
    users = ["a", "b", "c"]
    profiles.put(users, _vectors(*users))
    found = profiles.get(["c", "nobody", "a"])
    assert found.keys() == {"a", "c"}
    np.testing.assert_array_equal(found["a"], vector_of("a"))
    assert found["a"].dtype == np.float32


def test_a_profile_is_replaced(profiles: Profiles) -> None:
    """One vector a user: the last that was put, within one call too."""
    profiles.put(["a", "b", "a"], _vectors("old", "b", "new"))
    np.testing.assert_array_equal(profiles.get(["a"])["a"], vector_of("new"))
    profiles.put(["a"], _vectors("newer"))
    assert [user for user, _ in profiles.similar(_vectors("newer"), 5)[0]] == _by_cosine("newer", a="newer", b="b")


def _by_cosine(query: str, **texts: str) -> list[str]:
    return sorted(texts, key=lambda user: -float(vector_of(query) @ vector_of(texts[user])))


def test_similar_users_come_best_first_with_their_cosine(profiles: Profiles) -> None:
    """Each row of the answer belongs to the vector in the same place; a stored vector finds itself at cosine 1."""
    users = [f"u{n}" for n in range(50)]
    stored = _vectors(*users)
    profiles.put(users, stored)
    answers = profiles.similar(stored[:3], 10)
    cosines = stored[:3] @ stored.T
    for row, answer in enumerate(answers):
        assert [user for user, _ in answer] == [users[i] for i in np.argsort(-cosines[row])[:10]]
        np.testing.assert_allclose([value for _, value in answer], np.sort(cosines[row])[::-1][:10], atol=1e-5)


def test_the_length_of_a_vector_means_nothing(profiles: Profiles) -> None:
    """Similarity is the cosine."""
    profiles.put(["long", "short"], np.stack([10 * vector_of("a"), 0.1 * vector_of("b")]))
    for query in (vector_of("b"), 7 * vector_of("b")):
        best, value = profiles.similar(query[np.newaxis], 1)[0][0]
        assert (best, round(value, 4)) == ("short", 1.0)


def test_there_may_be_fewer_users_than_asked_for(profiles: Profiles) -> None:
    """Without profiles the answer is empty, with two it has two; no questions have no answers."""
    assert profiles.similar(_vectors("a", "b"), 3) == [[], []]
    profiles.put(["a", "b"], _vectors("a", "b"))
    assert [len(answer) for answer in profiles.similar(_vectors("a"), 3)] == [2]
    assert list(profiles.similar(np.empty((0, GENERATION.dimension), np.float32), 3)) == []
    assert profiles.get([]) == {}


def test_users_go_in_and_come_out_unchanged(profiles: Profiles) -> None:
    """A user's id is text: nothing in it is an operator, a quote or an escape."""
    profiles.put(ODD_IDS, _vectors(*ODD_IDS))
    found = profiles.get(ODD_IDS)
    assert found.keys() == set(ODD_IDS)
    for odd in ODD_IDS:
        np.testing.assert_array_equal(found[odd], vector_of(odd))
        assert profiles.get([odd]).keys() == {odd}
        assert profiles.similar(_vectors(odd), 1)[0][0][0] == odd


def test_many_profiles_go_through(profiles: Profiles) -> None:
    """What is split into several requests arrives whole and in order."""
    users = [f"u{n}" for n in range(6_000)]
    vectors = np.random.default_rng(1).standard_normal((6_000, GENERATION.dimension)).astype(np.float32)
    profiles.put(users, vectors)
    assert profiles.get(users).keys() == set(users)
    answers = profiles.similar(vectors[:1_200], 2)
    assert [answer[0][0] for answer in answers] == users[:1_200]


@pytest.mark.servers("milvus")
def test_readers_of_the_alias_see_a_generation_once_it_is_activated(milvus_settings: MilvusSettings) -> None:
    """A new generation is filled beside the one that is read, and replaces it at one stroke."""
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
            new.activate()
            assert _aliased(client, milvus_settings.profile_collection) == ["b"]
            assert old.get(["a"]).keys() == {"a"}


def _aliased(client: Any, alias: str) -> list[str]:
    rows = client.query(alias, filter='id != ""', output_fields=["id"], consistency_level="Strong", timeout=10)
    return [row["id"] for row in rows]


def test_milvus_away_is_transient() -> None:
    """The task is tried again, and learns it within a bounded time."""
    from include.stores.milvus import MilvusProfiles

    with pytest.raises(TransientError):
        MilvusProfiles(MilvusSettings("http://127.0.0.1:1"), GENERATION)
