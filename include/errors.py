"""Every error that Millrace raises: transient or permanent.

Adapters translate a driver's errors into these in one place each; Airflow's retry policy decides by these two classes
(``dags/dag_factories/policy.py``). Invalid data is neither: it becomes a dead letter.
"""

from __future__ import annotations


class MillraceError(Exception):
    """The base class of every error raised on purpose."""


class TransientError(MillraceError):
    """May resolve by itself: a store is down, slow or restarting. The task is retried."""


class PermanentError(MillraceError):
    """Will not resolve by itself: a setting, a credential or the location of data is wrong. The task fails at once."""


class ConfigurationError(PermanentError):
    """A setting is missing or wrong. The message names the setting and what it should look like."""


class OffsetsGoneError(PermanentError):
    """The topic no longer (or does not yet) hold the offsets of a batch."""


class StagedBatchMissingError(PermanentError):
    """The staged files of a batch do not exist: clear the run from its ``stage`` task on."""
