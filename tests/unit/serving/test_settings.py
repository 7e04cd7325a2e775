"""The reader's settings."""

from __future__ import annotations

import pytest

from include.errors import ConfigurationError
from include.serving.settings import ReaderSettings

URL = "redis://:secret@cache:7000/1"


def settings(**environment: str) -> ReaderSettings:
    return ReaderSettings.from_environment({"MILLRACE_REDIS_URL": URL, **environment})


@pytest.mark.parametrize("empty", [{}, {f"MILLRACE_READER_{name}": "" for name in ("HOST", "PORT", "WORKERS")}])
def test_only_the_url_must_be_set(empty: dict[str, str]) -> None:
    """Unset or empty, the others have defaults: loopback, port 18000, one worker."""
    assert settings(**empty) == ReaderSettings(URL, "127.0.0.1", 18_000, 1)


def test_every_setting_is_read() -> None:
    """What is set is taken."""
    found = settings(MILLRACE_READER_HOST="0.0.0.0", MILLRACE_READER_PORT="65535", MILLRACE_READER_WORKERS="4")
    assert found == ReaderSettings(URL, "0.0.0.0", 65_535, 4)


@pytest.mark.parametrize("environment", [{}, {"MILLRACE_REDIS_URL": ""}])
def test_a_missing_url_is_named(environment: dict[str, str]) -> None:
    """The message says which setting and how it looks."""
    with pytest.raises(ConfigurationError, match="MILLRACE_REDIS_URL is not set; it looks like redis://"):
        ReaderSettings.from_environment(environment)


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", " 1", "٣", "1_0"])
@pytest.mark.parametrize(("name", "most"), [("MILLRACE_READER_PORT", 65_535), ("MILLRACE_READER_WORKERS", 256)])
def test_a_wrong_number_is_named(name: str, most: int, value: str) -> None:
    """The message says which setting, what it has and what it should be."""
    for wrong in value, str(most + 1):
        with pytest.raises(ConfigurationError) as caught:
            settings(**{name: wrong})
        assert str(caught.value) == f"{name} is {wrong!r}; it must be a whole number from 1 to {most}"


def test_the_password_is_in_no_repr() -> None:
    """Settings that are logged show no URL."""
    assert "secret" not in repr(settings())
