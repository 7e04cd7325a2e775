"""``dead-letters`` on real topics: what each command shows, writes and publishes."""

from __future__ import annotations

import json
import stat
from contextlib import closing
from pathlib import Path

import pytest

from include.cli import __main__ as cli
from include.domain.batch import DeadLetter, Record
from include.domain.letters import MAX_REDRIVES
from include.domain.reasons import Reason
from include.settings import KafkaSettings
from include.sources.kafka import KafkaDeadLetters, KafkaSource
from include.sources.kafka_producer import Publisher
from include.sources.kafka_topics import ensure_topics

pytestmark = pytest.mark.servers("kafka")


class Topics:
    """Two shards of events and their dead letters, as the command line sees them."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings

    def publish(self, *messages: tuple[int, bytes | None]) -> None:
        """Messages with their shard."""
        with closing(Publisher(self.settings)) as publisher:
            for shard, value in messages:
                publisher.send(shard, b"key of u", value)
            publisher.flush()

    def read(self, shard: int) -> list[Record]:
        with closing(KafkaSource(self.settings)) as source:
            low, high = source.read_offsets(shard)
            return [record for records in source.read(shard, low, high) for record in records]

    def reject(self, shard: int, offset: int, reason: str) -> None:
        """Put the dead letter of a message, as ``stage`` does."""
        with closing(KafkaDeadLetters(self.settings)) as letters:
            letters.put([DeadLetter(self.settings.topic, self.read(shard)[offset], reason)])


@pytest.fixture
def topics(kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> Topics:
    """Three rejected messages; the letter of the first was put twice."""
    ensure_topics(kafka_settings, 2)
    monkeypatch.setenv("MILLRACE_KAFKA_BOOTSTRAP", kafka_settings.bootstrap)
    monkeypatch.setenv("MILLRACE_TOPIC", kafka_settings.topic)
    monkeypatch.setenv("MILLRACE_DEAD_LETTER_TOPIC", kafka_settings.dead_letter_topic)
    opened = Topics(kafka_settings)
    opened.publish((0, b"{secret"), (0, b"\xff"), (1, None))
    for shard, offset, reason in (
        (0, 0, Reason.INVALID_JSON),
        (0, 0, Reason.INVALID_JSON),
        (0, 1, "refused_by_milvus"),
        (1, 0, Reason.EMPTY_MESSAGE),
    ):
        opened.reject(shard, offset, reason)
    return opened


def run(line: str, capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    """What the command prints on standard output."""
    assert cli.main(["dead-letters", *line.split()]) == code
    return capsys.readouterr().out


def test_list_counts_letters(topics: Topics, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each reason and shard with the first and the last time; each origin counts once."""
    heading, *lines = (line.split() for line in run("list", capsys).splitlines())
    assert heading == ["letters", "shard", "first", "last", "reason"]
    assert [(line[0], line[1], line[-1]) for line in lines] == [
        ("1", "1", "empty_message"),
        ("1", "0", "invalid_json"),
        ("1", "0", "refused_by_milvus"),
    ]
    assert len(run("list --reason refused_by_milvus --shard 0", capsys).splitlines()) == 2
    assert run("list --until 2000-01-01T00:00:00Z", capsys) == ""
    assert len(run("list --since 2000-01-01T00:00:00+01:00", capsys).splitlines()) == 4


def test_list_wants_a_shard_with_an_offset(topics: Topics, capsys: pytest.CaptureFixture[str]) -> None:
    """An offset alone would mean one message of each shard."""
    assert cli.main(["dead-letters", "list", "--offset", "1"]) == 1
    assert "add --shard" in capsys.readouterr().err


def test_show_hides_content(topics: Topics, capsys: pytest.CaptureFixture[str]) -> None:
    """The key and the bytes are printed only on request; an unknown letter is an error."""
    hidden = run("show --shard 0 --offset 0", capsys)
    assert "reason: invalid_json" in hidden
    assert "bytes: 7" in hidden
    assert "secret" not in hidden
    assert "key of u" not in hidden
    shown = run("show --shard 0 --offset 0 --content", capsys)
    assert "value: {secret" in shown
    assert "key: key of u" in shown
    run("show --shard 0 --offset 5", capsys, code=1)


def test_export_writes_a_private_file(topics: Topics, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One JSON object for each letter, readable only by the owner; an existing file is never replaced."""
    file = tmp_path / "letters.jsonl"
    run(f"export --file {file}", capsys)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    rows = {row["origin"]: row for row in map(json.loads, file.read_text(encoding="utf-8").splitlines())}
    topic = topics.settings.topic
    assert rows.keys() == {f"{topic}-0-0", f"{topic}-0-1", f"{topic}-1-0"}
    assert rows[f"{topic}-0-0"]["value"] == "{secret"
    assert rows[f"{topic}-0-1"]["value_base64"] == "/w=="
    assert rows[f"{topic}-1-0"]["value"] is None
    run(f"export --file {file} --shard 1", capsys, code=1)
    assert len(file.read_text(encoding="utf-8").splitlines()) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["letters.jsonl"]


def test_redrive_publishes_each_message_once(topics: Topics, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run publishes nothing, and a second run finds the copies in the topic."""
    assert "would redrive 2 messages" in run("redrive --shard 0 --dry-run", capsys)
    assert len(topics.read(0)) == 2
    assert "redrove 2 messages" in run("redrive --shard 0", capsys)
    second = run("redrive --shard 0", capsys)
    assert "redrove 0 messages" in second
    assert "left out 2, which were redriven before: --again" in second
    copies = sorted((record.key, record.value, record.redrives, record.redriven_from) for record in topics.read(0)[2:])
    topic = topics.settings.topic
    assert copies == [(b"key of u", b"{secret", 1, f"{topic}-0-0"), (b"key of u", b"\xff", 1, f"{topic}-0-1")]
    assert len(topics.read(1)) == 1


def test_redrive_ends_after_three_times(topics: Topics, capsys: pytest.CaptureFixture[str]) -> None:
    """The letter of a message that fails again carries the count, and the command refuses the fourth time."""
    for offset in range(1, MAX_REDRIVES + 1):
        assert "redrove 1 message" in run("redrive --shard 1", capsys)
        topics.reject(1, offset, Reason.EMPTY_MESSAGE)
    assert cli.main(["dead-letters", "redrive", "--shard", "1"]) == 1
    printed = capsys.readouterr()
    assert "redrove 0 messages" in printed.out
    assert "refused 1, which were redriven 3 times" in printed.err
    assert len(topics.read(1)) == 1 + MAX_REDRIVES
