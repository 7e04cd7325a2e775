"""One parser for every setting of every process: the DAGs, the command line, the reader, the servers.

Errors name the setting as the user knows it, the value it has, and what it should look like.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from include.errors import ConfigurationError

#: Every environment variable of this project begins with it.
PREFIX = "MILLRACE_"

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


class SettingsParser:
    """Typed settings from text values. An empty value counts as not set: that is how Compose passes on a variable
    without a value. ``describe`` turns a name into what the user has to change; every error begins with it.
    """

    def __init__(self, values: Mapping[str, object], describe: Callable[[str], str] = str) -> None:
        self._values = values
        self._describe = describe

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], prefix: str = PREFIX) -> SettingsParser:
        """The variables that begin with ``prefix``, by their names without it."""
        values = {name.removeprefix(prefix): value for name, value in environment.items() if name.startswith(prefix)}
        return cls(values, lambda name: prefix + name)

    def has(self, name: str) -> bool:
        """Whether the setting has a value."""
        return self._text(name) is not None

    def text(self, name: str, default: str | None = None, hint: str = "") -> str:
        """The text of a setting. Without a default the setting is required; ``hint`` then says where to get it."""
        value = self._text(name)
        if value is None:
            value = default
        if value is None:
            raise ConfigurationError(f"{self._describe(name)} is not set{hint and '. '}{hint}")
        return value

    def integer(self, name: str, default: int, least: int, most: int, alternative: str = "") -> int:
        """A whole number in ``[least, most]``. ``alternative`` names another value that the caller accepts itself."""
        text = self._text(name)
        if text is None:
            return default
        # Not int() alone: it also accepts 1_000, ' 7' and digits of other scripts.
        number = int(text) if text.isascii() and text.isdigit() else None
        if number is None or not least <= number <= most:
            or_else = f", or {alternative}" if alternative else ""
            raise self._invalid(name, text, f"a whole number from {least} to {most}{or_else}")
        return number

    def boolean(self, name: str, default: bool) -> bool:
        """A switch: true, yes, on, 1 or false, no, off, 0, in any case."""
        text = self._text(name)
        if text is None:
            return default
        if text.lower() in _TRUE:
            return True
        if text.lower() in _FALSE:
            return False
        raise self._invalid(name, text, "true or false")

    def choice[T: str](self, name: str, default: T, choices: Sequence[T]) -> T:
        """One of ``choices``."""
        text = self._text(name)
        if text is None:
            return default
        for choice in choices:
            if choice == text:
                return choice
        raise self._invalid(name, text, f"{', '.join(choices[:-1])} or {choices[-1]}")

    def options(self, name: str) -> dict[str, str]:
        """A JSON object of option names and plain values, all as text; empty if not set. Values may be secrets, so
        the error does not repeat them.
        """
        text = self._text(name)
        if text is None:
            return {}
        try:
            options = json.loads(text)
        except ValueError:
            options = None
        plain = isinstance(options, dict) and not any(isinstance(v, dict | list | None) for v in options.values())
        if not plain:
            raise ConfigurationError(f'{self._describe(name)} must be a JSON object like {{"name": "value"}}')
        return {option: option_text(value) for option, value in options.items()}

    def path(self, name: str, default: Path) -> Path:
        """An absolute path; ``~`` is the user's home."""
        text = self._text(name)
        return (Path(text) if text is not None else default).expanduser().resolve()

    def _text(self, name: str) -> str | None:
        value = self._values.get(name)
        return None if value is None or value == "" else option_text(value)

    def _invalid(self, name: str, value: str, expected: str) -> ConfigurationError:
        return ConfigurationError(f"{self._describe(name)} is {value!r}; it must be {expected}")


def option_text(value: object) -> str:
    """A JSON value as the text that drivers expect: ``true`` rather than Python's ``True``."""
    return str(value).lower() if isinstance(value, bool) else str(value)
