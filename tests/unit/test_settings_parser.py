"""The settings parser: what each type accepts, and errors that name the setting."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.errors import ConfigurationError
from include.settings_parser import SettingsParser


def parser(**values: object) -> SettingsParser:
    return SettingsParser(values, lambda name: f"setting {name}")


@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_value_is_not_set(value: object) -> None:
    """Every type returns its default for a missing or empty value."""
    settings = parser(a=value)
    assert not settings.has("a")
    assert settings.text("a", "default") == "default"
    assert settings.integer("a", 7, 1, 9) == 7
    assert settings.boolean("a", True) is True
    assert settings.choice("a", "x", ["x", "y"]) == "x"
    assert settings.options("a") == {}
    assert settings.path("a", Path("/folder")) == Path("/folder")


def test_a_required_text_is_named_with_its_hint() -> None:
    """Without a default the error names the setting and says where to get it."""
    with pytest.raises(ConfigurationError, match=r"^setting a is not set\. Look here$"):
        parser().text("a", hint="Look here")


@given(st.integers(-20, 20))
def test_an_integer_is_within_its_limits(number: int) -> None:
    """A number in the range is accepted; any other is an error with the limits."""
    settings = parser(a=str(number))
    if 1 <= number <= 9:
        assert settings.integer("a", 5, 1, 9) == number
    else:
        with pytest.raises(ConfigurationError, match=rf"^setting a is '{number}'; .* from 1 to 9$"):
            settings.integer("a", 5, 1, 9)


@pytest.mark.parametrize("wrong", ["1_0", " 7", "+7", "7.0", "٧", "0x7"])
def test_only_plain_digits_are_an_integer(wrong: str) -> None:
    """Forms that only Python understands are rejected: other processes read the same variables."""
    with pytest.raises(ConfigurationError):
        parser(a=wrong).integer("a", 5, 1, 100)


@pytest.mark.parametrize(
    ("text", "expected"), [("true", True), ("Yes", True), ("1", True), ("off", False), ("0", False)]
)
def test_a_boolean_has_the_usual_spellings(text: str, expected: bool) -> None:
    """true, yes, on, 1 and their opposites count in any case; a JSON boolean does too."""
    assert parser(a=text).boolean("a", not expected) is expected
    assert parser(a=expected).boolean("a", not expected) is expected


def test_a_boolean_is_not_guessed() -> None:
    """Any other text is an error."""
    with pytest.raises(ConfigurationError, match=r"^setting a is 'maybe'; it must be true or false$"):
        parser(a="maybe").boolean("a", False)


def test_a_choice_lists_its_values() -> None:
    """A value that is not among the choices is an error that lists them all."""
    with pytest.raises(ConfigurationError, match=r"^setting a is 'Z'; it must be x, y or z$"):
        parser(a="Z").choice("a", "x", ["x", "y", "z"])


def test_the_environment_is_read_by_prefix() -> None:
    """Only variables with the prefix count, and errors name the whole variable."""
    settings = SettingsParser.from_environment({"APP_A": "1", "A": "2", "APP_B": "x"}, "APP_")
    assert settings.integer("A", 0, 0, 9) == 1
    with pytest.raises(ConfigurationError, match=r"^APP_B is 'x'"):
        settings.integer("B", 0, 0, 9)


def test_a_path_may_begin_with_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A tilde is the user's home, and the result is absolute."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parser(a="~/x/../y").path("a", Path("/")) == tmp_path.resolve() / "y"
