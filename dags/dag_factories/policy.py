"""How every task of ours is run and tried again: the one place that decides on our two kinds of errors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from include.errors import PermanentError, TransientError

#: No event is older, so that a backfill may reach as far back as a user likes.
START = datetime(2010, 1, 1, tzinfo=UTC)

#: What will not pass by itself fails at once; what may pass is tried for about half an hour. Anything else (a killed
#: worker, a bug) gets the task's ordinary retries.
RETRY_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(exception=PermanentError, action=RetryAction.FAIL, reason="it will not pass by itself"),
        RetryRule(exception=TransientError, action=RetryAction.RETRY, reason="a server is away"),
    ]
)

DEFAULT_ARGS: dict[str, Any] = {
    "owner": "millrace",
    "retries": 8,
    "retry_delay": timedelta(seconds=5),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=10),
    "retry_policy": RETRY_POLICY,
    "execution_timeout": timedelta(minutes=30),
}
