"""What Millrace adds to Airflow: a timetable, and modules loaded once instead of once a task."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

import preload
from replay_only import ReplayOnly


class MillracePlugin(AirflowPlugin):
    """Registers the timetable and the listener."""

    name = "millrace"
    timetables: ClassVar[list[Any]] = [ReplayOnly]
    listeners: ClassVar[list[Any]] = [sys.modules[preload.__name__]]
