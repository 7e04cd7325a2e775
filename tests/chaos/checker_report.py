"""Collects what the parts of the checker find."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

from tests.chaos.observations import Violations

#: Digests of events that a sentence names, so that they can be looked up.
EXAMPLES = 3


class Report:
    """Counts violations by invariant, with one sentence for each kind."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._details: list[str] = []
        self._unchecked: dict[int, str] = {}

    def checked(self, invariant: int) -> None:
        """This invariant was checked, and has no violation so far."""
        self._counts[invariant] += 0

    def skip(self, invariant: int, reason: str) -> None:
        """This invariant cannot be checked."""
        self._unchecked[invariant] = reason

    def add(self, invariant: int, count: int, sentence: str, examples: Iterable[str] = ()) -> None:
        """Record ``count`` violations, if there are any. ``examples`` are digests, never ids."""
        self._counts[invariant] += count
        if count:
            named = ", ".join(islice(examples, EXAMPLES))
            self._details.append(f"invariant {invariant}: {sentence}" + (f" (for example {named})" if named else ""))

    def violations(self) -> Violations:
        """Everything recorded so far."""
        unchecked = {number: why for number, why in self._unchecked.items() if number not in self._counts}
        return Violations(dict(sorted(self._counts.items())), self._details, dict(sorted(unchecked.items())))


def count_differences(differences: Sequence[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """From (field, digest of the event) to the digests by field."""
    by_field: dict[str, list[str]] = {}
    for name, event_id in differences:
        by_field.setdefault(name, []).append(event_id)
    return sorted(by_field.items())
