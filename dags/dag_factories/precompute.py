"""The DAG that makes recommendation lists and puts them into Redis."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, task

from dag_factories import connections
from dag_factories.assets import ENGAGEMENT
from dag_factories.policy import DEFAULT_ARGS, START

_DOC = """
Makes the list of every user whose events changed, and of active users whose list is about to end: after each
aggregation and every five minutes. Lists live for `millrace_list_ttl_minutes`; the newest one wins.
"""


def precompute_dag() -> DAG:
    """The DAG ``precompute_recommendations``."""
    every_five_minutes = CronTriggerTimetable("*/5 * * * *", timezone="UTC")
    with DAG(
        dag_id="precompute_recommendations",
        description="Ready recommendations into Redis",
        doc_md=_DOC,
        schedule=AssetOrTimeSchedule(timetable=every_five_minutes, assets=[ENGAGEMENT]),
        start_date=START,
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS,
        tags=["millrace", "precompute"],
    ) as dag:
        chunks: Any = select_users()
        ref = chunks["ref"]
        profiles = build_profiles.partial(ref=ref).expand(chunk=chunks)
        lists = recommend.partial(ref=ref).expand(chunk=chunks)
        profiles >> lists >> publish(ref)
    return dag


@task
def select_users(dag_run: Any = None, ti: Any = None) -> list[int]:
    """Choose whose list is due; returns the numbers of their chunks, over which the next two tasks are mapped."""
    from include.domain.identity import digest
    from include.pipeline import precompute as step

    pipeline = connections.pipeline()
    with stores() as opened:
        ref = step.select(digest(dag_run.run_id.encode()), round(time.time() * 1000), pipeline, opened)
    ti.xcom_push(key="ref", value=msgspec.to_builtins(ref))
    return list(range(ref.chunks))


@task
def build_profiles(ref: dict[str, Any], chunk: int) -> int:
    """Rebuild the profiles of a chunk's changed users from all of their events."""
    from include.pipeline import precompute as step

    with stores() as opened:
        return step.build_profiles(msgspec.convert(ref, step.RunRef), chunk, opened)


@task(trigger_rule="none_failed")
def recommend(ref: dict[str, Any], chunk: int) -> int:
    """Rank and pack the lists of a chunk's users."""
    from include.pipeline import precompute as step

    pipeline = connections.pipeline()
    with stores() as opened:
        return step.recommend(msgspec.convert(ref, step.RunRef), chunk, pipeline, opened)


@task(trigger_rule="none_failed")
def publish(ref: dict[str, Any]) -> int:
    """Put the lists into Redis; the popular one too, when no user's list was due."""
    from include.pipeline import precompute as step

    pipeline = connections.pipeline()
    with stores() as opened:
        return step.publish(msgspec.convert(ref, step.RunRef), pipeline, opened)


def stores() -> Any:
    """Every store of the precompute, closed at the end of the block."""
    from include import bootstrap

    return bootstrap.precompute_stores(
        warehouse=connections.warehouse(),
        milvus=connections.milvus(),
        neo4j=connections.neo4j(),
        redis=connections.redis(),
        generation=connections.embed().generation,
        pipeline=connections.pipeline(),
    )
