"""The DAG that builds recommendation lists and puts them into Redis."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, task

from dag_factories.assets import ENGAGEMENT
from dag_factories.connections import AirflowSettings
from dag_factories.policy import DEFAULT_ARGS, START
from dag_factories.xcom import from_xcom, to_xcom
from include import bootstrap
from include.errors import hide_values
from include.pipeline import precompute

_DOC = """
Rebuilds the list of every user whose events changed, and of active users whose list expires soon: after each
aggregation and every five minutes. Lists live for `millrace_list_ttl_minutes`; the newest one wins.
"""


def precompute_dag() -> DAG:
    """The DAG ``precompute_recommendations``."""
    every_five_minutes = CronTriggerTimetable("*/5 * * * *", timezone="UTC")
    with DAG(
        dag_id="precompute_recommendations",
        description="Builds recommendation lists and puts them into Redis",
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
@hide_values()
def select_users(dag_run: Any = None, ti: Any = None) -> list[int]:
    """Choose the users whose list is due. Returns the chunk numbers, over which the next two tasks are mapped."""
    settings = AirflowSettings()
    with bootstrap.open_precompute_ports(settings) as ports:
        ref = precompute.select_users(dag_run.run_id, settings.pipeline, ports)
    ti.xcom_push(key="ref", value=to_xcom(ref))
    return list(range(ref.chunks))


@task
@hide_values()
def build_profiles(ref: dict[str, Any], chunk: int) -> int:
    """Rebuild the profiles of a chunk's changed users from all of their events."""
    with bootstrap.open_precompute_ports(AirflowSettings()) as ports:
        return precompute.build_profiles(from_xcom(ref, precompute.RunRef), chunk, ports)


@task(trigger_rule="none_failed")
@hide_values()
def recommend(ref: dict[str, Any], chunk: int) -> int:
    """Rank items and pack the lists of a chunk's users."""
    with bootstrap.open_precompute_ports(AirflowSettings()) as ports:
        return precompute.recommend(from_xcom(ref, precompute.RunRef), chunk, ports)


@task(trigger_rule="none_failed")
@hide_values()
def publish(ref: dict[str, Any]) -> int:
    """Put the lists into Redis; the popular list too, even when no user's list was due."""
    settings = AirflowSettings()
    with bootstrap.open_precompute_ports(settings) as ports:
        return precompute.publish(from_xcom(ref, precompute.RunRef), settings.pipeline, ports)
