"""The operator's command line without servers: what it accepts and how it reports errors."""

from __future__ import annotations

import pytest

from include.cli import __main__ as cli

ADDRESSES = ["KAFKA_BOOTSTRAP", "MONGO_URI", "MILVUS_URI", "NEO4J_URI", "WAREHOUSE_DSN", "REDIS_URL", "EMBED_URL"]


@pytest.fixture(autouse=True)
def without_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without any server address."""
    for name in ADDRESSES:
        monkeypatch.delenv(f"MILLRACE_{name}", raising=False)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "command"),
        ("letters", "letters"),
        ("dead-letters", "action"),
        ("dead-letters list --shard many", "--shard"),
        ("dead-letters list --reason invalid_jsom", "'invalid_jsom' is not a reason"),
        ("dead-letters list --since 2026-11-25T09:00:00", "is not a time with an offset"),
        ("dead-letters show --shard 0", "--offset"),
        ("dead-letters export", "--file"),
        ("warnings --reason odd", "--reason"),
    ],
)
def test_a_wrong_command_line_is_explained(line: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong command line exits 2, prints the usage, and names what is wrong."""
    with pytest.raises(SystemExit) as caught:
        cli.main(line.split())
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "usage: python -m include.cli" in printed.err
    assert complaint in printed.err.splitlines()[-1]


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """``--help`` lists the commands on standard output and exits 0."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "dead-letters" in printed
    assert "warnings" in printed


@pytest.mark.parametrize(
    ("line", "variable"),
    [
        ("dead-letters list", "KAFKA_BOOTSTRAP"),
        ("dead-letters show --shard 0 --offset 1", "KAFKA_BOOTSTRAP"),
        ("dead-letters redrive --reason refused_by_milvus --dry-run", "KAFKA_BOOTSTRAP"),
        ("warnings", "WAREHOUSE_DSN"),
    ],
)
def test_each_command_asks_only_for_the_settings_it_needs(
    line: str, variable: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without its setting a command exits 1 with one line on standard error that names the variable, no traceback."""
    assert cli.main(line.split()) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    [complaint] = printed.err.splitlines()
    assert complaint.startswith(f"error: MILLRACE_{variable} is not set")


@pytest.mark.parametrize(("line", "server"), [("warnings", "warehouse"), ("dead-letters list", "Kafka")])
def test_an_unavailable_server_is_named(
    line: str, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the server does not answer, the command exits 1 with a message that names it."""
    monkeypatch.setenv("MILLRACE_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("MILLRACE_WAREHOUSE_DSN", "postgresql://u:p@127.0.0.1:1/warehouse")
    assert cli.main(line.split()) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert server in printed.err
    assert "Traceback" not in printed.err
