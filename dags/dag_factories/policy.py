"""How every task is run and retried: the one place that decides between transient and permanent errors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, ExceptionRetryPolicy, RetryAction, RetryRule

from include.errors import PermanentError, TransientError

#: No event is older than this, so a backfill may start as early as a user likes.
START = datetime(2010, 1, 1, tzinfo=UTC)

#: Permanent errors fail at once; transient ones are retried for about half an hour. Anything else (a killed worker, a
#: bug) gets the task's ordinary retries.
RETRY_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(exception=PermanentError, action=RetryAction.FAIL, reason="it will not resolve by itself"),
        RetryRule(exception=TransientError, action=RetryAction.RETRY, reason="a server is unavailable"),
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


def daily_dag(dag_id: str, cron: str, description: str, doc: str, tag: str, **arguments: Any) -> DAG:
    """A DAG of long tasks that runs once a day.

    ``cron`` is in UTC, and not at midnight or a full hour, when other DAGs start.
    """
    return DAG(
        dag_id=dag_id,
        description=description,
        doc_md=doc,
        schedule=CronTriggerTimetable(cron, timezone="UTC"),
        start_date=START,
        catchup=False,
        max_active_runs=1,
        default_args={**DEFAULT_ARGS, "execution_timeout": timedelta(hours=6)},
        tags=["millrace", tag],
        **arguments,
    )
