"""The Makefile, and what runs its commands: pre-commit and the GitHub workflow."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
MAKEFILE = (PROJECT / "Makefile").read_text(encoding="utf-8")
WORKFLOW = PROJECT / ".github" / "workflows" / "ci.yml"
TARGETS = [name for name in re.findall(r"^\.PHONY: (\S+)$", MAKEFILE, re.MULTILINE) if not name.startswith("_")]
#: They must work offline, and must not change what running servers run on.
WITHOUT_SETUP = ["down", "status", "logs", "reset", "doctor"]


def run_make(*arguments: str, cwd: Path = PROJECT, **variables: str) -> subprocess.CompletedProcess[str]:
    """``make`` with a clean environment, as if typed in a terminal."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment | variables, capture_output=True, text=True, check=False)


def write_program(path: Path, script: str) -> None:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose virtual environment was installed before requirements.txt changed. Its Python records calls."""
    shutil.copy(PROJECT / "Makefile", tmp_path)
    for name in ("python", "pip", "uv"):
        write_program(tmp_path / ".venv" / "bin" / name, f'echo {name} "$@" >> "{tmp_path}/calls"')
    installed, requirements = tmp_path / ".venv" / ".installed", tmp_path / "requirements.txt"
    installed.touch()
    requirements.touch()
    os.utime(installed, (1, 1))
    return tmp_path


def read_calls(project: Path) -> list[str]:
    calls = project / "calls"
    return calls.read_text(encoding="utf-8").splitlines() if calls.exists() else []


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_has_one_help_line(target: str) -> None:
    """``make help`` describes every target that a user can type, on one line that fits a wide terminal."""
    (line,) = [line for line in run_make("help").stdout.splitlines() if re.match(rf"  make {target} ", line)]
    assert len(line) <= 120


def test_help_groups_the_targets() -> None:
    """``make help`` has four groups, in the order in which a newcomer needs them."""
    headings = re.findall(r"^(\w[\w ]*)$", run_make("help").stdout, re.MULTILINE)
    assert headings == ["Run", "Local servers", "Develop", "Measure"]


@pytest.mark.parametrize("target", WITHOUT_SETUP)
def test_server_commands_need_no_setup(target: str, project: Path) -> None:
    """They run on the existing environment and install nothing, even if requirements.txt is newer."""
    answer = run_make(target, cwd=project, BASE_PYTHON="false")
    assert answer.returncode == 0, answer.stderr
    assert read_calls(project) == [f"python -m stack {target}"]


@pytest.mark.parametrize("target", WITHOUT_SETUP)
def test_server_commands_use_the_base_python_without_an_environment(target: str, project: Path) -> None:
    """Without .venv they run on any Python 3.12, and do not create one."""
    shutil.rmtree(project / ".venv")
    write_program(project / "base", f'echo base "$@" >> "{project}/calls"')
    answer = run_make(target, cwd=project, BASE_PYTHON="./base")
    assert answer.returncode == 0, answer.stderr
    assert read_calls(project) == [f"base -m stack {target}"]
    assert not (project / ".venv").exists()


@pytest.mark.parametrize("target", ["down", "setup"])
def test_without_any_python_one_sentence_says_what_to_do(target: str, project: Path) -> None:
    """If there is no Python 3.12 at all, the error names the version and the variable."""
    shutil.rmtree(project / ".venv")
    answer = run_make(target, cwd=project, BASE_PYTHON="")
    assert answer.returncode != 0
    assert answer.stderr.startswith("error: Python 3.12 was not found; install it, or name it: make BASE_PYTHON=")


def test_other_commands_install_changed_requirements(project: Path) -> None:
    """Commands that start something install first if requirements.txt is newer."""
    write_program(project / "base", f'echo base "$@" >> "{project}/calls"')
    answer = run_make("up", cwd=project, BASE_PYTHON="./base")
    assert answer.returncode == 0, answer.stderr
    assert read_calls(project) == ["base -m scripts.install", "python -m stack up"]


def test_clean_refuses_while_servers_run(project: Path) -> None:
    """``make clean`` keeps the environment if the check for running servers fails."""
    write_program(project / ".venv" / "bin" / "python", 'test "$2" != scripts.refuse_while_running')
    assert run_make("clean", cwd=project).returncode != 0
    assert (project / ".venv").exists()
    write_program(project / ".venv" / "bin" / "python", "exit 0")
    assert run_make("clean", cwd=project).returncode == 0
    assert not (project / ".venv").exists()


@pytest.mark.parametrize("target", ["publish", "new-sink"])
def test_a_missing_argument_is_named(target: str, project: Path) -> None:
    """A command that needs an argument shows an example of it."""
    (project / ".venv" / ".installed").touch()
    answer = run_make(target, cwd=project)
    assert answer.returncode != 0
    assert re.search(rf"error: .*: make {target} [A-Z]+=", answer.stderr)
    assert read_calls(project) == []


def list_check_commands() -> list[str]:
    """The commands of ``make check``, without set-up."""
    lines = run_make("--dry-run", "check").stdout.splitlines()
    return [line for line in lines if line.startswith((".venv/bin/ruff", ".venv/bin/mypy", ".venv/bin/lint-imports"))]


def list_hooks() -> list[dict[str, Any]]:
    """The hooks of the pre-commit configuration."""
    content = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    return [hook for repository in content["repos"] for hook in repository["hooks"]]


def test_pre_commit_runs_the_checks() -> None:
    """pre-commit's hooks run the same commands as ``make check``."""
    hooks = [hook for hook in list_hooks() if hook.get("language") == "system"]
    commands = list_check_commands()
    assert len(commands) == 4
    assert [hook["entry"] for hook in hooks] == commands
    assert all(hook["pass_filenames"] is False for hook in hooks)


def test_pre_commit_keeps_files_clean() -> None:
    """Large files, private keys, merge conflicts and missing final newlines are found before they are committed."""
    ids = {hook["id"] for hook in list_hooks()}
    assert {"check-added-large-files", "detect-private-key", "check-merge-conflict", "end-of-file-fixer"} <= ids


def test_pre_commit_finds_tokens() -> None:
    """The pattern for secrets matches well-known tokens, and nothing in the project's own files."""
    (pattern,) = [re.compile(hook["entry"]) for hook in list_hooks() if hook["id"] == "secrets"]
    for token in ("AKIA" + "A1" * 8, "ghp_" + "a1" * 18, "hf_" + "aB" * 15):
        assert pattern.search(f"token = {token}")
    for folder in ("dags", "demo", "docker", "include", "plugins", "scripts", "stack", "tests"):
        for path in (PROJECT / folder).rglob("*.py"):
            assert not pattern.search(path.read_text(encoding="utf-8")), path


def test_the_workflow_runs_ci() -> None:
    """GitHub runs what .ci/run runs and, in a job of its own, the audit: with read access only and a time limit."""
    content = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    runs = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in content["jobs"].items()}
    assert runs == {"test": ["bash .ci/run"], "audit": ["make audit"]}
    assert content["permissions"] == {"contents": "read"}
    for job in content["jobs"].values():
        assert job["timeout-minutes"] <= 60
        pythons = [step["with"]["python-version"] for step in job["steps"] if "python-version" in step.get("with", {})]
        assert pythons == [f"{sys.version_info.major}.{sys.version_info.minor}"]


def test_actions_are_pinned_by_commit() -> None:
    """A tag can be moved to other code; the version in the comment says what the commit is."""
    uses = [
        line.partition("uses: ")[2] for line in WORKFLOW.read_text(encoding="utf-8").splitlines() if "uses: " in line
    ]
    assert uses
    for line in uses:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_the_tests_do_not_ask_for_advisories() -> None:
    """Tests must pass without a network, so only ``make audit`` asks a service."""
    for target in ("test", "check", "unit"):
        dry_run = run_make("--dry-run", "--assume-old", ".venv/.installed", target)
        assert dry_run.returncode == 0
        assert "scripts.audit" not in dry_run.stdout


def test_every_yaml_file_for_github_is_valid() -> None:
    """GitHub silently ignores an issue template that it cannot parse."""
    templates = [path for path in (PROJECT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(templates) == 2
    for path in templates:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert content["name"]
        assert content["description"]
        ids = [field["id"] for field in content["body"] if field["type"] != "markdown"]
        assert len(ids) == len(set(ids))


def test_the_linter_checks_security() -> None:
    """ruff's S rules are on; only tests ignore whole rules, and elsewhere each exception gives its reason."""
    lint = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert not [code for code in lint["ignore"] if re.fullmatch(r"S\d*", code)]
    ignoring = {
        path for path, codes in lint["per-file-ignores"].items() if any(re.fullmatch(r"S\d*", c) for c in codes)
    }
    assert ignoring == {"tests/**"}
    for folder in ("dags", "demo", "include", "plugins", "scripts", "stack"):
        for path in (PROJECT / folder).rglob("*.py"):
            for line in path.read_text(encoding="utf-8").splitlines():
                assert re.search(r"noqa: S\d+ \(.{5,}\)$", line) or not re.search(r"noqa: S\d", line), f"{path}: {line}"
