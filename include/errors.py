"""Every error of ours: what may pass by itself, and what will not.

Adapters translate a driver's error into one of these once, at their head; Airflow's retry policy decides on the
two marks in one place (``dags/dag_factories/policy.py``). A data error is neither: it is a dead letter.
"""

from __future__ import annotations


class MillraceError(Exception):
    """The root of every error raised on purpose."""


class TransientError(MillraceError):
    """It may pass by itself: a store is down, slow or restarting. The task is tried again."""


class PermanentError(MillraceError):
    """It will not pass by itself: a setting, a credential or the data's place is wrong. The task fails at once."""


class ConfigurationError(PermanentError):
    """A setting is missing or wrong. The message names the setting and what it should look like."""


class OffsetsGoneError(PermanentError):
    """Offsets that a batch needs are no longer (or not yet) in the topic."""


class StagedBatchMissingError(PermanentError):
    """The staged files of a batch are gone: clear the run from its ``stage`` task on."""
