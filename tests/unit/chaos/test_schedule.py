"""The faults of a chaos run."""

from __future__ import annotations

from collections import Counter

from tests.chaos.schedule import KINDS, REST_S, plan


def test_the_same_seed_plans_the_same_faults() -> None:
    """Two plans with one seed are equal, and two seeds differ."""
    assert plan(7, 600, 8) == plan(7, 600, 8) != plan(8, 600, 8)


def test_every_kind_falls_in_a_long_run() -> None:
    """In 15 minutes each kind falls at least three times."""
    counts = Counter(fault.kind for fault in plan(3, 900, 7))
    assert min(counts[kind] for kind in KINDS) >= 3


def test_a_server_rests_between_faults() -> None:
    """Two faults of one server are further apart than it needs to recover from the first."""
    ends: dict[str, float] = {}
    for fault in plan(5, 3_600, 4):
        if fault.target:
            assert fault.at >= ends.get(fault.target, 0)
            ends[fault.target] = fault.at + fault.seconds + REST_S[fault.target]


def test_faults_are_as_long_as_promised() -> None:
    """Pauses last 2 to 60 seconds, delays 0.1 to about 5 seconds a block, and no fault begins after the run."""
    faults = plan(9, 3_600, 4)
    pauses = [fault.seconds for fault in faults if fault.kind.startswith("pause_")]
    assert 2 <= min(pauses) < 30 < max(pauses) <= 60
    assert all(0.1 <= fault.latency <= 5.1 for fault in faults if fault.kind == "delay")
    assert max(fault.at for fault in faults) < 3_600


def test_chosen_kinds_only() -> None:
    """A plan of two kinds has these two and no other."""
    assert {fault.kind for fault in plan(1, 300, 5, ("kill_mongo", "reset"))} == {"kill_mongo", "reset"}
