"""Every error that Millrace raises: transient or permanent.

Adapters translate a driver's errors into these in one place each; Airflow's retry policy decides by these two classes
(``dags/dag_factories/policy.py``). Invalid data is neither: it becomes a dead letter.

No error of Millrace carries texts, ids or documents, because tracebacks end up in logs. The messages of drivers and
libraries often do, so they are left out, and ``from None`` leaves the original error out of the traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb


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


class RefusedError(PermanentError):
    """A store refuses what it was asked to write because of its values, whatever the setting and however often."""


class RefusedEventsError(PermanentError):
    """A store refused some events of a batch; they are recorded, and become dead letters when it is staged again."""


class RejectShareError(PermanentError):
    """So many messages are not valid events that the topic's producer, not a message, must be at fault."""


class StaleClaimError(PermanentError):
    """A later run has claimed the batch, so this one may neither write nor commit it."""


class StagedBatchMissingError(PermanentError):
    """The staged files of a batch do not exist: clear the run from its ``stage`` task on."""


class UnexpectedError(MillraceError):
    """A bug, or an error that no adapter translates: its class and where it was raised, but not its message."""


@contextmanager
def hide_values() -> Iterator[None]:
    """Raise every error in a form that is safe to log. Also a decorator: ``@hide_values()``."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - nothing is swallowed
        raise without_values(error) from None


def without_values(error: Exception) -> Exception:
    """``error`` in a form that is safe to log: an ``UnexpectedError`` with the same traceback, unless it is Millrace's
    or Airflow's own. Raise it ``from None``, or pass it to a logger.
    """
    is_safe = isinstance(error, MillraceError) or type(error).__module__.startswith("airflow.")
    safe = error if is_safe else UnexpectedError(_describe(error)).with_traceback(error.__traceback__)
    safe.__cause__ = None  # also suppresses the context
    return safe


def _describe(error: Exception) -> str:
    name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    frames = list(walk_tb(error.__traceback__))
    if not frames:
        return name
    frame, line = frames[-1]
    code = frame.f_code
    return f"{name} in {code.co_qualname} ({code.co_filename}:{line}); its message is hidden, because it may quote data"
