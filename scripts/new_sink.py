"""Write a new sink and its test from a template: ``make new-sink NAME=search``.

The sink works from the start, on SQLite, and its test passes once the sink is registered. The command prints what is
left to do; docs/adding-a-sink.md explains it.
"""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
TEMPLATES = Path(__file__).with_name("templates")

_REGISTRATION = """\
    "{name}": SinkSpec(
        title="{title}",
        content="every valid event",
        connection="{name}_default",
        address=lambda settings: settings.store("{name}").url,
        open=_open_{name}_sink,
    ),
"""
_OPENER = """\
def _open_{name}_sink(settings: Settings) -> Sink:
    from include.sinks.{name} import {class_name}

    return {class_name}(settings.store("{name}"))
"""
_CONNECTION = """\
    - conn_id: {name}_default
      conn_type: generic
      conn_extra:
        url: sqlite:////tmp/{name}.sqlite
"""
_ROW = "| `{name}` ({title}) | every valid event | `{name}_default` | any event | `stage` |\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 when both files are written, 2 after printing what is wrong with the name."""
    parser = argparse.ArgumentParser(prog="make new-sink", description=__doc__)
    parser.add_argument("name", help="lower-case letters, digits and underscores; the task becomes upsert_<name>")
    name = parser.parse_args(arguments).name
    problem = find_problem(name, PROJECT)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    for path in write_files(name, PROJECT):
        print(f"wrote {path.relative_to(PROJECT)}")
    print(format_next_steps(name))
    return 0


def find_problem(name: str, project: Path) -> str:
    """Returns what is wrong with a name, or an empty string if nothing is."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name) or name == "memory":
        return f"{name!r} cannot be the name of a sink: use lower-case letters, digits and underscores, like search"
    existing = next((path for path in sink_files(name, project) if path.exists()), None)
    return f"{existing.relative_to(project)} already exists: choose another name" if existing else ""


def sink_files(name: str, project: Path) -> tuple[Path, Path]:
    """The files of a sink: its adapter and its test."""
    return project / "include" / "sinks" / f"{name}.py", project / "tests" / "contract" / f"test_{name}.py"


def write_files(name: str, project: Path) -> tuple[Path, Path]:
    """Write the adapter and its test. Returns their paths."""
    sink, test = sink_files(name, project)
    for path, template in ((sink, "sink.py.txt"), (test, "test_sink.py.txt")):
        path.write_text(_fill((TEMPLATES / template).read_text(encoding="utf-8"), name), encoding="utf-8")
    return sink, test


def build_snippets(name: str) -> dict[str, str]:
    """The text to insert into each existing file, by the kind of text."""
    parts = {"registration": _REGISTRATION, "opener": _OPENER, "connection": _CONNECTION, "row": _ROW}
    return {part: _fill(text, name) for part, text in parts.items()}


def format_next_steps(name: str) -> str:
    """The edits that are left to the user, with the text to insert."""
    parts = build_snippets(name)
    return f"""
Next (docs/adding-a-sink.md explains each step):

1. include/bootstrap.py: add the opener next to the others, and the entry to SINKS:

{parts["opener"]}
{parts["registration"]}
2. airflow_settings.yaml: add the connection. Outside Airflow the sink reads MILLRACE_{name.upper()}_URL:

{parts["connection"]}
3. docs/stores.md: add the row:

{parts["row"]}
4. include/sinks/{name}.py: replace SQLite with your server's driver until these tests pass:

    .venv/bin/pytest tests/contract/test_{name}.py tests/contract/test_sinks.py tests/dags

5. stack/servers/{name}.py: add the server to the local stack, if it is a process from a package."""


def _fill(template: str, name: str) -> str:
    words = name.split("_")
    title = " ".join(words).capitalize()
    stem = "".join(word.capitalize() for word in words)
    return template.format(name=name, title=title, class_name=f"{stem}Sink", probe_name=f"{stem}Probe")


if __name__ == "__main__":
    sys.exit(main())
