"""run.json in the demo's home: the current run and its progress. It also marks the folder as the demo's own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from include.errors import ConfigurationError
from stack.credentials import write_private

FILE = "run.json"
#: Files that the demo itself creates in its home before it writes a manifest.
LOCK_FILE = "demo.lock"
RECOUNT_FILE = "recount.sqlite"


class State(StrEnum):
    """STARTING: nothing published yet, so everything may be discarded. PUBLISHING and WAITING: can be resumed.
    FINISHED: finished, whether or not the counts matched."""

    STARTING = "starting"
    PUBLISHING = "publishing"
    WAITING = "waiting"
    FINISHED = "over"


class StageTimes(msgspec.Struct, frozen=True):
    """When each stage was first seen to be complete, in seconds since 1970; None until then."""

    first_publish: float | None = None
    published: float | None = None
    ingested: float | None = None
    aggregated: float | None = None
    last_list: float | None = None


class Manifest(msgspec.Struct, frozen=True):
    """One run. Every message of the run has ``published_at`` (ms since 1970) as its Kafka timestamp, even if the run
    is killed and resumed, so the rule about future timestamps always gives the same result."""

    input: str
    shards: int
    fingerprint: str
    published_at: int
    started_at: float
    state: State = State.STARTING
    setup_seconds: float = 0.0
    start_seconds: float = 0.0
    stage_times: StageTimes = msgspec.field(default_factory=StageTimes, name="marks")

    @property
    def unfinished(self) -> bool:
        """Whether this run has published something and can be resumed."""
        return self.state in (State.PUBLISHING, State.WAITING)

    def update(self, **changes: Any) -> Manifest:
        """Returns a copy with these fields changed."""
        return msgspec.structs.replace(self, **changes)

    def record_times(self, **times: float) -> Manifest:
        """Returns a copy with these stage times; a time that is already set does not change."""
        new = {name: value for name, value in times.items() if getattr(self.stage_times, name) is None}
        return self.update(stage_times=msgspec.structs.replace(self.stage_times, **new))


def load(home: Path) -> Manifest | None:
    """Returns the manifest in this folder, or None if the folder is missing or empty.

    Raises ``ConfigurationError`` for a folder with other content: the demo would delete it.
    """
    path = home / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        if home.is_dir() and any(entry.name not in (LOCK_FILE, RECOUNT_FILE) for entry in home.iterdir()):
            raise ConfigurationError(
                f"{home} was not created by the demo, and the demo deletes everything in its folder: "
                "choose another one with --home"
            ) from None
        return None
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"cannot read {path} ({exc}): choose another folder with --home") from exc


def save(home: Path, manifest: Manifest) -> None:
    """Replace the manifest atomically: after a kill, either the old or the new version is there."""
    write_private(home / FILE, msgspec.json.format(msgspec.json.encode(manifest), indent=1).decode() + "\n")
