"""run.json in the demo's home: which input is under way, and how far it came. It marks the home as the demo's own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import msgspec

from include.errors import ConfigurationError
from stack.credentials import write_private

FILE = "run.json"
#: What the demo itself puts into its home before there is a manifest.
LOCK_FILE = "demo.lock"
RECOUNT_FILE = "recount.sqlite"


class State(StrEnum):
    """STARTING: nothing published yet, all may be thrown away. PUBLISHING, WAITING: to be gone on with. OVER: done
    or found wrong."""

    STARTING = "starting"
    PUBLISHING = "publishing"
    WAITING = "waiting"
    OVER = "over"


@dataclass(frozen=True)
class Marks:
    """When each stage was first seen to have ended, in seconds since 1970; None before that."""

    first_publish: float | None = None
    published: float | None = None
    ingested: float | None = None
    aggregated: float | None = None
    last_list: float | None = None


@dataclass(frozen=True)
class Manifest:
    """One run. ``published_at`` (ms since 1970) is the Kafka timestamp of every message of it, also after a kill:
    so the rule for times that lie ahead gives the same verdicts."""

    input: str
    shards: int
    fingerprint: str
    published_at: int
    started_at: float
    state: State = State.STARTING
    setup_seconds: float = 0.0
    start_seconds: float = 0.0
    marks: Marks = field(default_factory=Marks)

    @property
    def unfinished(self) -> bool:
        """Whether something of it is in the topic and the stores that is worth going on with."""
        return self.state in (State.PUBLISHING, State.WAITING)

    def marked(self, **marks: float) -> Manifest:
        """With these marks, where they were not set before."""
        new = {name: value for name, value in marks.items() if getattr(self.marks, name) is None}
        return replace(self, marks=replace(self.marks, **new))


def load(home: Path) -> Manifest | None:
    """The manifest of this home, None for a home that does not exist or is empty.

    Raises ``ConfigurationError`` for a folder with something in it that no demo made: the demo empties its home.
    """
    path = home / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        if home.is_dir() and any(entry.name not in (LOCK_FILE, RECOUNT_FILE) for entry in home.iterdir()):
            raise ConfigurationError(
                f"{home} was not made by the demo, and the demo empties its folder: give another one with --home"
            ) from None
        return None
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"{path} cannot be read ({exc}): give another folder with --home") from exc


def save(home: Path, manifest: Manifest) -> None:
    """Replace the manifest as a whole: after a kill there is the old one or the new one."""
    write_private(home / FILE, msgspec.json.format(msgspec.json.encode(manifest), indent=1).decode() + "\n")
