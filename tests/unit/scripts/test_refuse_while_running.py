"""Which stacks run on a virtual environment, by the commands of their supervisors."""

from __future__ import annotations

from pathlib import Path

from scripts.refuse_while_running import find_homes


def test_only_supervisors_on_this_environment_count(tmp_path: Path) -> None:
    """A supervisor on another environment, other programs on this one, and processes without a command do not count."""
    venv = tmp_path / ".venv"
    supervisor = ("-m", "supervisor.supervisord", "-n", "-c")
    commands = [
        (f"{venv}/bin/python", *supervisor, "/home/me/stack/run/supervisord.conf"),
        ("/elsewhere/.venv/bin/python", *supervisor, "/home/me/other/run/supervisord.conf"),
        (f"{venv}/bin/python", "-m", "pytest"),
        (),
    ]
    assert find_homes(venv, commands) == {Path("/home/me/stack")}
