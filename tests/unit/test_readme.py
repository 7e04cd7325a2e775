"""The README: its commands exist and know their options, and what it says of fields, settings and answers is so."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from include.domain.event import decode
from include.domain.generation import Generation
from include.domain.ranking import KIND_WEIGHTS
from include.domain.reasons import Reason
from include.domain.recommendation_list import MAX_ITEMS, RecommendationList, RecommendedItem, list_key, pack
from include.serving.answers import body, render
from include.settings import EmbedSettings, PipelineSettings
from stack.config import DEFAULT_HEAPS, DEFAULT_PORTS

PROJECT = Path(__file__).resolve().parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```(?P<kind>[a-z]*)\n(?P<lines>.*?)^```$", re.MULTILINE | re.DOTALL)
_SETTING = re.compile(r"[A-Z][A-Z0-9_]*=")


def fenced(page: Path, *kinds: str) -> list[str]:
    """The contents of the fenced blocks of these kinds."""
    found = _FENCE.finditer(page.read_text(encoding="utf-8"))
    return [block["lines"] for block in found if block["kind"] in kinds]


def command_lines() -> Iterator[tuple[str, str]]:
    """(page, line) for every command line of every page."""
    for page in PAGES:
        for block in fenced(page, "sh", "bash", "shell", "console"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip() and not line.startswith("#"):
                    yield str(page.relative_to(PROJECT)), line.removeprefix("$ ").strip()


def not_run() -> list[str]:
    """What the table at the end of the README says is left out."""
    table = README.partition("## Commands not run by the tests")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)


COMMANDS = sorted({line for _, line in command_lines()})


def words(line: str) -> list[str]:
    """The words of a command without the settings before it."""
    found = shlex.split(line)
    while _SETTING.match(found[0]):
        found.pop(0)
    return found


def python_arguments(line: str) -> list[str] | None:
    """What follows ``python -m`` in the line or in an ``eval "$(...)"``; None if it is no such command."""
    inner = re.fullmatch(r'eval "\$\((.*)\)"', line)
    found = words(inner[1] if inner else line)
    return found[2:] if re.fullmatch(r"(.*/)?python3?", found[0]) and found[1] == "-m" else None


def help_of(*arguments: str) -> str:
    """What ``python -m ... --help`` says."""
    asked = [sys.executable, "-m", *arguments, "--help"]
    # A terminal wide enough that no option is broken over two lines.
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "COLUMNS": "200"}
    answer = subprocess.run(asked, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.parametrize("line", [line for line in COMMANDS if words(line)[0] == "make"])
def test_make_commands_exist(line: str) -> None:
    """Every make command names targets of the Makefile, and make knows how to do them."""
    targets = [word for word in words(line)[1:] if "=" not in word]
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    assert targets
    assert set(targets) <= set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    dry = subprocess.run(
        ["make", "--dry-run", *words(line)[1:]], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert dry.returncode == 0, dry.stderr


@pytest.mark.parametrize("line", [line for line in COMMANDS if python_arguments(line) is not None])
def test_python_commands_know_their_options(line: str) -> None:
    """Every module is there, has the subcommand, and takes the options that the page gives it."""
    arguments = python_arguments(line)
    assert arguments
    known = help_of(arguments[0]) + help_of(*arguments)
    for option in (word for word in arguments if word.startswith("-")):
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", known), f"{option} is unknown in: {line}"


@pytest.mark.parametrize("line", COMMANDS)
def test_every_other_command_is_said_to_be_left_out(line: str) -> None:
    """A command is checked here, or the README says why it is not."""
    if words(line)[0] == "make" or python_arguments(line) is not None:
        return
    assert any(line.startswith(left_out) for left_out in not_run()), f"not checked, and not in the table: {line}"


def test_what_is_left_out_is_there() -> None:
    """The table has no command that no page has."""
    for left_out in not_run():
        assert any(line.startswith(left_out) for line in COMMANDS), f"no page has {left_out}"


def test_every_reason_is_explained() -> None:
    """The table of dead letters is the whole closed list, and nothing else."""
    table = README.partition("### Dead letters")[2].partition("```")[0]
    assert set(re.findall(r"`([a-z0-9_]+)`", table)) == {reason.value for reason in Reason}


def test_the_example_event_is_one() -> None:
    """Who copies the example gets no dead letter, and uses every field there is."""
    examples = [json.loads(block) for block in fenced(PROJECT / "README.md", "json")]
    (event,) = [example for example in examples if "message_id" in example]
    decoded = decode(json.dumps(event).encode())
    assert decoded.extra is None
    assert None not in (decoded.text, decoded.item_id, decoded.campaign_id, decoded.value)


def test_the_example_answer_is_the_readers() -> None:
    """The answer has the names, in the order, that the reader sends."""
    examples = [json.loads(block) for block in fenced(PROJECT / "README.md", "json")]
    (shown,) = [example for example in examples if "generated_at" in example]
    item = RecommendedItem("item", 1.0, "text", "popular", "popular lately")
    sent = json.loads(body("u", render(pack(RecommendationList(0, "popular", [item])), 10), partial=False))
    assert list(shown) == list(sent)
    for one in shown["items"]:
        assert list(one) == list(sent["items"][0])
    assert f"`limit` is 1 to {MAX_ITEMS}" in README


def test_the_redis_keys_are_the_real_ones() -> None:
    """The generation and the keys look as the page says."""
    generation = EmbedSettings(url="").generation.name
    assert f"`{generation}`" in README
    assert f"`{list_key('{generation}', '{user_id}').decode()}`" in README
    assert Generation("a", "b", 1).name == "a_b_1"


def test_every_setting_is_listed() -> None:
    """Each number of the pipeline has its variable and its default in the table."""
    default = PipelineSettings()
    rows = {
        "SHARDS": str(default.shards),
        "BATCH_PATH": f"`{default.batch_path}`",
        "BATCH_SIZE": str(default.batch_size),
        "AS_OF": f"`{default.as_of}`",
        "LIST_TTL_MINUTES": str(default.list_ttl_s // 60),
        "ACTIVE_DAYS": str(default.active_days),
        "USERS_PER_CHUNK": str(default.users_per_chunk),
    }
    for name, value in rows.items():
        assert re.search(rf"^\| `MILLRACE_{name}` \| [^|]* \| {re.escape(value)} \|", README, re.MULTILINE), name


def test_every_variable_and_connection_of_airflow_is_listed() -> None:
    """What the DAGs read in Airflow is what the page tells the reader to set."""
    text = (PROJECT / "dags" / "dag_factories" / "connections.py").read_text(encoding="utf-8")
    variables = re.search(r"^_VARIABLES = \((.*)\)$", text, re.MULTILINE)
    assert variables
    for name in re.findall(r'"([a-z_]+)"', variables[1]):
        assert f"`millrace_{name}`" in README
    connections = re.findall(r'^[A-Z0-9]+ = "([a-z0-9]+_default)"$', text, re.MULTILINE)
    assert len(connections) == 7
    for conn_id in connections:
        assert f"| `{conn_id}` |" in README
        assert f"AIRFLOW_CONN_{conn_id.upper()}=" in README


def test_the_example_connections_are_json() -> None:
    """What stands behind each AIRFLOW_CONN_ can be pasted."""
    (block,) = fenced(PROJECT / "README.md", "text")
    for line in block.splitlines():
        assert json.loads(line.partition("=")[2])["conn_type"]


def test_ports_heaps_and_kinds_are_the_real_ones() -> None:
    """The names in the page are names in the code, and the addresses are the default ones."""
    for name in ("kafka", "mongo", "milvus", "neo4j", "postgres", "redis", "embed", "airflow", "reader"):
        assert name in DEFAULT_PORTS
        assert f"`{name.upper()}`" in README
    for name in DEFAULT_HEAPS:
        assert f"`{name.upper()}`" in README
    assert f"http://127.0.0.1:{DEFAULT_PORTS['airflow']}`" in README
    assert f"http://127.0.0.1:{DEFAULT_PORTS['reader']}/v1/users/" in README
    for kind in KIND_WEIGHTS:
        assert f"`{kind}`" in README


def test_the_folders_are_there() -> None:
    """The table of folders has no folder that is gone."""
    table = README.partition("## Where things are")[2].partition("\n\nNothing")[0]
    for first in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE):
        folder = ""
        for path in re.findall(r"`([^`]+)`", first):
            # Siblings are named without what stands before them.
            beside = PROJECT / Path(folder).parent / path
            assert (PROJECT / path).exists() or beside.exists(), path
            folder = path if (PROJECT / path).exists() else folder
