"""``make audit``: which advisories count, and what a report without answers means. pip-audit itself is not run."""

from __future__ import annotations

import datetime
import json
import tomllib

import pytest

from scripts.audit import PROJECT, AuditError, Ignored, audit_environment, judge, parse_ignored, parse_report

TODAY = datetime.date(2026, 11, 25)
IGNORED = Ignored("CVE-2026-1", "We never parse XML.", TODAY)


def report(*packages: dict[str, object]) -> str:
    """pip-audit's JSON report."""
    return json.dumps({"dependencies": packages, "fixes": []})


def package(name: str, *ids: str) -> dict[str, object]:
    """A package as pip-audit reports it, with one advisory that has these ids, or with none."""
    found = [{"id": ids[0], "aliases": list(ids[1:]), "fix_versions": ["2.0"], "description": ""}] if ids else []
    return {"name": name, "version": "1.0", "vulns": found}


def unknown(name: str) -> dict[str, object]:
    """A package that the service does not know."""
    return {"name": name, "skip_reason": f"Dependency not found on PyPI and could not be audited: {name} (1.0)"}


def test_no_advisory_is_a_success() -> None:
    """The last line says how many packages were checked."""
    assert judge(parse_report(report(package("a"), package("b"))), ()) == (
        0,
        ["packages checked: 2, advisories: 0, ignored: 0"],
    )


def test_an_advisory_is_a_failure() -> None:
    """The package, its version, all ids and the fixed version are named."""
    code, lines = judge(parse_report(report(package("a", "GHSA-1", "CVE-2026-1"))), ())
    assert (code, lines[0]) == (1, "a 1.0: GHSA-1 CVE-2026-1, fixed in 2.0")


def test_an_ignored_advisory_is_found_by_any_of_its_ids() -> None:
    """The services name the same advisory differently."""
    code, lines = judge(parse_report(report(package("a", "GHSA-1", "CVE-2026-1"))), (IGNORED,))
    assert (code, lines) == (0, ["packages checked: 1, advisories: 0, ignored: 1"])


def test_an_entry_that_matches_nothing_is_named() -> None:
    """It can be removed from the file."""
    code, lines = judge(parse_report(report(package("a"))), (IGNORED,))
    assert (code, lines[0]) == (0, "note: CVE-2026-1 in audit-ignore.toml matches nothing")


def test_a_package_that_was_not_checked_is_a_failure() -> None:
    """pip-audit itself would report success."""
    code, lines = judge(parse_report(report(package("a"), unknown("b"))), ())
    assert (code, lines[0]) == (1, "not checked, because the service does not know them: b")


def test_a_service_that_knows_no_package_has_not_answered() -> None:
    """An index without advisories makes pip-audit skip every package and say that nothing was found."""
    assert parse_report(report(unknown("a"), unknown("b"))).known == 0


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('id = "1"\nreason = "x"\ndate = 2026-11-25', "not the id of an advisory"),
        ('id = "CVE-2026-1"\ndate = 2026-11-25', "CVE-2026-1 needs a reason"),
        ('id = "CVE-2026-1"\nreason = " "\ndate = 2026-11-25', "CVE-2026-1 needs a reason"),
        ('id = "CVE-2026-1"\nreason = "x"', "CVE-2026-1 needs the date"),
        ('id = "CVE-2026-1"\nreason = "x"\ndate = "2026-11-25"', "CVE-2026-1 needs the date"),
        ('id = "CVE-2026-1"\nreason = "x"\ndate = 2026-11-26', "CVE-2026-1 needs the date"),
        ("id =", "not valid TOML"),
    ],
)
def test_an_ignored_advisory_needs_an_id_a_reason_and_a_date(entry: str, message: str) -> None:
    """Nobody can tell later why an entry without them is there."""
    with pytest.raises(AuditError, match=message):
        parse_ignored(f"[[ignore]]\n{entry}\n", TODAY)


def test_the_projects_own_file_is_valid() -> None:
    """The file, and the example in its comment, have the right form."""
    text = (PROJECT / "audit-ignore.toml").read_text(encoding="utf-8")
    parse_ignored(text, datetime.datetime.now(datetime.UTC).date())
    example = "\n".join(line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   "))
    assert tomllib.loads(example)["ignore"]
    (entry,) = parse_ignored(example, TODAY)
    assert entry.reason


def test_pips_certificates_and_proxy_are_passed_on() -> None:
    """Behind a company proxy, pip is configured already; variables that are set win."""
    pip = {"cert": "/etc/ssl/company.pem", "proxy": "http://proxy.example.com:3128"}
    passed_on = {"REQUESTS_CA_BUNDLE": pip["cert"], "HTTPS_PROXY": pip["proxy"]}
    assert audit_environment({"HOME": "/home/x"}, pip) == {"HOME": "/home/x", **passed_on}
    own = {"HTTPS_PROXY": "http://other.example.com"}
    assert audit_environment(own, pip) == {**passed_on, **own}
    assert audit_environment({}, {}) == {}
