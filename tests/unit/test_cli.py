"""The operator's command line as far as it goes without a server: what it understands and how it says no."""

from __future__ import annotations

import pytest

from include import cli

ADDRESSES = ["KAFKA_BOOTSTRAP", "MONGO_URI", "MILVUS_URI", "NEO4J_URI", "WAREHOUSE_DSN", "REDIS_URL", "EMBED_URL"]


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without any of our addresses."""
    for name in ADDRESSES:
        monkeypatch.delenv(f"MILLRACE_{name}", raising=False)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "command"),
        ("letters", "letters"),
        ("dead-letters --limit many", "--limit"),
        ("dead-letters invalid_json", "invalid_json"),
        ("warnings --reason odd", "--reason"),
    ],
)
def test_what_it_does_not_understand_is_named(line: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong command line ends with 2, shows how to use it, and names what is wrong."""
    with pytest.raises(SystemExit) as caught:
        cli.main(line.split())
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "usage: python -m include.cli" in printed.err
    assert complaint in printed.err.splitlines()[-1]


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """Who asks learns what there is, on standard output, and it is no failure."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "dead-letters" in printed
    assert "warnings" in printed


@pytest.mark.parametrize("line", ["dead-letters", "dead-letters --reason invalid_json --limit 5", "warnings"])
def test_without_settings_it_says_what_to_set(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback: 1, one line on standard error with the variable and how to set it, nothing on standard output."""
    assert cli.main(line.split()) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    [complaint] = printed.err.splitlines()
    assert complaint.startswith("error: MILLRACE_KAFKA_BOOTSTRAP is not set")


@pytest.mark.parametrize(("line", "server"), [("warnings", "warehouse"), ("dead-letters", "Kafka")])
def test_a_server_that_is_away_is_named(
    line: str, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody listens: 1, and one line that says who is away."""
    for name in ADDRESSES:
        monkeypatch.setenv(f"MILLRACE_{name}", "127.0.0.1:1")
    monkeypatch.setenv("MILLRACE_WAREHOUSE_DSN", "postgresql://u:p@127.0.0.1:1/warehouse")
    assert cli.main([line]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert server in printed.err
    assert "Traceback" not in printed.err
