"""The result of validating the values of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from include.domain.reasons import Reason


class Verdict(NamedTuple):
    """``rejected`` maps row numbers to the first rule that each row fails; ``warnings`` describe the whole batch."""

    rejected: Mapping[int, Reason]
    warnings: Sequence[str]
