"""What the commands share: how they are registered, and options that several of them have."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from include.settings import EnvironmentSettings, Settings

#: Runs a command. Returns the exit code.
type Run = Callable[[Settings, argparse.Namespace], int]
type Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_command(commands: Commands, name: str, run: Run, description: str) -> argparse.ArgumentParser:
    """Register a command. Returns its parser, for its options."""
    parser = commands.add_parser(name, help=description, description=description)
    parser.set_defaults(run=run)
    return parser


def add_topic_option(parser: argparse.ArgumentParser) -> None:
    """``--topic``, by default the configured one."""
    topic = EnvironmentSettings(os.environ).topic
    parser.add_argument("--topic", default=topic, help=f"the topic of events (MILLRACE_TOPIC, now {topic})")
