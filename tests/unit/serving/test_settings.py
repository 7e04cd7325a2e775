"""The reader's settings."""

from __future__ import annotations

import pytest

from include.errors import ConfigurationError
from include.serving.settings import ReaderSettings

URL = "redis://:secret@cache:7000/1"


def read_settings(**environment: str) -> ReaderSettings:
    """Read the settings from a URL and these variables."""
    return ReaderSettings.from_environment({"MILLRACE_REDIS_URL": URL, **environment})


@pytest.mark.parametrize("empty", [{}, {f"MILLRACE_READER_{name}": "" for name in ("HOST", "PORT", "WORKERS")}])
def test_only_the_url_is_required(empty: dict[str, str]) -> None:
    """Unset or empty, the other settings default to loopback, port 18000 and one worker."""
    assert read_settings(**empty) == ReaderSettings(URL, "127.0.0.1", 18_000, 1)


def test_every_setting_is_read() -> None:
    """Each setting can be changed from its default."""
    settings = read_settings(MILLRACE_READER_HOST="0.0.0.0", MILLRACE_READER_PORT="65535", MILLRACE_READER_WORKERS="4")
    assert settings == ReaderSettings(URL, "0.0.0.0", 65_535, 4)


@pytest.mark.parametrize("environment", [{}, {"MILLRACE_REDIS_URL": ""}])
def test_a_missing_url_is_reported(environment: dict[str, str]) -> None:
    """The error names the setting and shows the expected format."""
    with pytest.raises(ConfigurationError, match=r"MILLRACE_REDIS_URL is not set\. It looks like redis://"):
        ReaderSettings.from_environment(environment)


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", " 1", "٣", "1_0"])
@pytest.mark.parametrize(("name", "most"), [("MILLRACE_READER_PORT", 65_535), ("MILLRACE_READER_WORKERS", 256)])
def test_an_invalid_number_is_reported(name: str, most: int, value: str) -> None:
    """The error names the setting, its value and the valid range."""
    for invalid in value, str(most + 1):
        with pytest.raises(ConfigurationError) as caught:
            read_settings(**{name: invalid})
        assert str(caught.value) == f"{name} is {invalid!r}; it must be a whole number from 1 to {most}"


def test_the_repr_contains_no_password() -> None:
    """Settings can be logged: the URL is left out of their representation."""
    assert "secret" not in repr(read_settings())
