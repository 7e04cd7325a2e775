"""What the harness saw while a run was under way, and what the checker concludes: shared by both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

#: The invariants of a run; the twelfth follows with erasure.
INVARIANTS: Mapping[int, str] = {
    1: "every store has exactly the valid events",
    2: "every store has the content of the winning revision",
    3: "delivered = unique events + duplicates + dead letters",
    4: "exactly the invalid messages are dead letters, with reason and original bytes",
    5: "offsets never fall, and never pass a message that a store lacks",
    6: "a replay changes nothing",
    7: "the order of arrival changes nothing",
    8: "derived data equals a recount",
    9: "a served list never gets older",
    10: "a poison message does not harm its neighbours",
    11: "it recovers alone",
}


class Position(NamedTuple):
    """The group's offset and the ledger's position of one shard; None before the first commit.

    Read the group's first: a batch is committed in the ledger, then in Kafka.
    """

    group: int | None
    ledger: int | None


@dataclass(frozen=True)
class OffsetSample:
    """The positions at one time (ms since 1970). A shard that could not be read is left out."""

    at: int
    shards: Mapping[int, Position]


class ServedReads(NamedTuple):
    """How many lists the reader returned, and how many of them were older than one it had returned for that user."""

    reads: int = 0
    regressions: int = 0


class VersionWatch:
    """Counts reads of lists, and those older than an earlier read of the same user. Not for several threads."""

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}
        self._reads = self._regressions = 0

    def see(self, user: str, version: int) -> None:
        """One list that was returned for ``user``; its version is the time it was made."""
        newest = self._newest.get(user, version)
        self._reads += 1
        self._regressions += version < newest
        self._newest[user] = max(version, newest)

    @property
    def served(self) -> ServedReads:
        """The counts so far."""
        return ServedReads(self._reads, self._regressions)


def not_poison(_origin: str, _payload: bytes | None) -> bool:
    """There are no poison messages."""
    return False


@dataclass(frozen=True)
class Observations:
    """``offsets`` in order of time. ``published`` is the number of acknowledged messages per shard.

    ``is_poison`` says, given the origin (topic-partition-offset) and the payload, whether a message is a valid event
    that some store refuses. ``converged``: whether the system recovered in time, None if nobody watched.
    """

    offsets: Sequence[OffsetSample] = ()
    served: ServedReads | None = None
    published: Mapping[int, int] = field(default_factory=dict)
    is_poison: Callable[[str, bytes | None], bool] = not_poison
    converged: bool | None = None


@dataclass(frozen=True)
class Violations:
    """The number of violations of each invariant that was checked, one sentence per kind of violation, and the reason
    for each invariant that was not checked. Sentences contain counts and digests, never ids or texts.
    """

    counts: Mapping[int, int]
    details: Sequence[str]
    unchecked: Mapping[int, str]

    @property
    def broken(self) -> frozenset[int]:
        """The invariants with violations."""
        return frozenset(number for number, count in self.counts.items() if count)

    def merge(self, other: Violations) -> Violations:
        """Both together; an invariant is unchecked only if neither checked it."""
        counts = {n: self.counts.get(n, 0) + other.counts.get(n, 0) for n in sorted({*self.counts, *other.counts})}
        unchecked = {n: why for n, why in {**other.unchecked, **self.unchecked}.items() if n not in counts}
        return Violations(counts, [*self.details, *other.details], dict(sorted(unchecked.items())))
