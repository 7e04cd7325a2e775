"""What Millrace adds to Airflow: a timetable, and modules that are imported once instead of in every task."""

from __future__ import annotations

import sys

from airflow.plugins_manager import AirflowPlugin

import preload
from replay_only import ReplayOnly


class MillracePlugin(AirflowPlugin):
    """Registers the timetable and the listener."""

    name = "millrace"
    timetables = [ReplayOnly]  # noqa: RUF012 (Airflow declares it so)
    listeners = [sys.modules[preload.__name__]]  # noqa: RUF012
