"""Compare requirements.txt with the known security advisories: ``python -m scripts.audit``, as ``make audit`` does.

pip-audit does the work, in an environment of its own (.venv-audit). It asks the index's advisories first, then OSV.
An index without advisories makes pip-audit skip every package and succeed, so a service counts as an answer only if it
knew at least one package. audit-ignore.toml lists the advisories that do not matter here. Standard library only.

Exit codes: 0 nothing found, 1 advisories found or a package not checked, 2 a file is wrong or pip-audit could not be
installed, 3 no advisory service answered.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scripts.install import InstallationError, create_environment
from scripts.run_uv import read_pip_config

PROJECT = Path(__file__).resolve().parents[1]
VENV = PROJECT / ".venv-audit"
SERVICES = ("pypi", "osv")
_ID = re.compile(r"(?:GHSA|CVE|PYSEC)-[\w-]+")


class AuditError(Exception):
    """The message says what to do."""


class Ignored(NamedTuple):
    """An advisory that does not matter here."""

    id: str
    reason: str
    date: datetime.date


class Advisory(NamedTuple):
    """An advisory on a pinned package. ``ids`` begins with its own and continues with its aliases."""

    package: str
    version: str
    ids: tuple[str, ...]
    fixed_in: tuple[str, ...]


class Report(NamedTuple):
    """What a service said: the number of packages it knew, those it did not know, and the advisories."""

    known: int
    unknown: tuple[str, ...]
    advisories: tuple[Advisory, ...]


def parse_ignored(text: str, today: datetime.date) -> tuple[Ignored, ...]:
    """The entries of audit-ignore.toml. Raises ``AuditError`` for one without an id, a reason and a past date."""
    try:
        entries = tomllib.loads(text).get("ignore", [])
    except tomllib.TOMLDecodeError as error:
        raise AuditError(f"audit-ignore.toml is not valid TOML: {error}") from error
    return tuple(_parse_entry(entry, today) for entry in entries)


def _parse_entry(entry: Mapping[str, Any], today: datetime.date) -> Ignored:
    name, reason, date = entry.get("id", ""), entry.get("reason", ""), entry.get("date")
    if not _ID.fullmatch(str(name)):
        raise AuditError(f"audit-ignore.toml: {name!r} is not the id of an advisory (GHSA-..., CVE-..., PYSEC-...)")
    if not str(reason).strip():
        raise AuditError(f"audit-ignore.toml: {name} needs a reason")
    if type(date) is not datetime.date or date > today:
        raise AuditError(f"audit-ignore.toml: {name} needs the date of the decision, such as date = {today}")
    return Ignored(name, reason, date)


def parse_report(text: str) -> Report:
    """pip-audit's JSON report. Packages that the service did not know have a ``skip_reason``."""
    packages = json.loads(text)["dependencies"]
    unknown = tuple(package["name"] for package in packages if "skip_reason" in package)
    advisories = tuple(
        Advisory(package["name"], package["version"], (found["id"], *found["aliases"]), tuple(found["fix_versions"]))
        for package in packages
        for found in package.get("vulns", [])
    )
    return Report(len(packages) - len(unknown), unknown, advisories)


def judge(report: Report, ignored: tuple[Ignored, ...]) -> tuple[int, list[str]]:
    """The exit code and the lines to print. Advisories that are not ignored and packages not checked are failures."""
    found = {name for advisory in report.advisories for name in advisory.ids}
    ignored_ids = {entry.id for entry in ignored}
    open_advisories = [advisory for advisory in report.advisories if ignored_ids.isdisjoint(advisory.ids)]
    lines = [
        f"{advisory.package} {advisory.version}: {' '.join(advisory.ids)}, "
        f"{'fixed in ' + ', '.join(advisory.fixed_in) if advisory.fixed_in else 'no fixed version'}"
        for advisory in open_advisories
    ]
    if report.unknown:
        lines.append(f"not checked, because the service does not know them: {', '.join(report.unknown)}")
    lines += [f"note: {entry.id} in audit-ignore.toml matches nothing" for entry in ignored if entry.id not in found]
    ignored_count = len(report.advisories) - len(open_advisories)
    lines.append(f"packages checked: {report.known}, advisories: {len(open_advisories)}, ignored: {ignored_count}")
    return int(bool(open_advisories or report.unknown)), lines


def answers(environment: Mapping[str, str]) -> Iterator[tuple[str, Report]]:
    """The services that answer, with their reports."""
    for service in SERVICES:
        report = ask(service, environment)
        if report and report.known:
            yield service, report


def ask(service: str, environment: Mapping[str, str]) -> Report | None:
    """pip-audit's report by this service, or None if there is none."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "report.json"
        options = [
            "--vulnerability-service",
            service,
            "--format",
            "json",
            "--aliases",
            "on",
            "--progress-spinner",
            "off",
        ]
        command = [
            *(str(VENV / "bin" / "pip-audit"), *options, "--output", str(output)),
            *(
                "--progress-spinner",
                "off",
                "--require-hashes",
                "--disable-pip",
                "--requirement",
                str(PROJECT / "requirements.txt"),
            ),
        ]
        answer = subprocess.run(  # noqa: S603 (our own pip-audit)
            command, env=environment, capture_output=True, text=True, check=False
        )
        if output.exists():
            return parse_report(output.read_text(encoding="utf-8"))
    print(f"{service}: {textwrap.shorten(answer.stderr.strip().rpartition('\n')[2], 200)}", file=sys.stderr)
    return None


def install() -> None:
    """Create .venv-audit and install requirements-audit.txt. Raises ``AuditError``."""
    try:
        python = create_environment(VENV)
    except InstallationError as error:
        raise AuditError(str(error)) from error
    packages = ["--require-hashes", "--no-deps", "--requirement", str(PROJECT / "requirements-audit.txt")]
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    if subprocess.run(command, check=False).returncode != 0:  # noqa: S603 (our own pip)
        raise AuditError("pip-audit could not be installed; see the lines above")


def audit_environment(environment: Mapping[str, str], pip: Mapping[str, str]) -> dict[str, str]:
    """``environment`` for pip-audit, which does not read pip's certificates and proxy. Variables that are set stay."""
    settings = {"REQUESTS_CA_BUNDLE": pip.get("cert"), "HTTPS_PROXY": pip.get("proxy")}
    return {**{name: value for name, value in settings.items() if value}, **environment}


def main() -> int:
    """See the exit codes above."""
    try:
        text = (PROJECT / "audit-ignore.toml").read_text(encoding="utf-8")
        ignored = parse_ignored(text, datetime.datetime.now(datetime.UTC).date())
        install()
    except AuditError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    environment = audit_environment(os.environ, read_pip_config(Path(sys.executable)))
    for service, report in answers(environment):
        code, lines = judge(report, ignored)
        print("\n".join([*lines, f"asked: {service}"]))
        return code
    print(
        "error: no advisory service answered, so nothing was checked; run make audit where PyPI or osv.dev can be "
        "reached, or see the GitHub workflow's audit job",
        file=sys.stderr,
    )
    return 3


if __name__ == "__main__":
    sys.exit(main())
