"""The embedding server's settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.embedding_server.settings import ServerSettings
from include.errors import ConfigurationError


def test_settings_are_read_from_the_environment() -> None:
    """Every variable has its field; an empty variable counts as not set."""
    settings = ServerSettings.from_environment(
        {
            "MILLRACE_EMBED_SERVER_HOST": "0.0.0.0",
            "MILLRACE_EMBED_SERVER_PORT": "8090",
            "MILLRACE_EMBED_API_KEY": "secret",
            "MILLRACE_EMBED_THREADS": "8",
            "MILLRACE_EMBED_SERVER_MODEL": "other",
            "MILLRACE_EMBED_MODEL_PATH": "/models/other",
            "MILLRACE_EMBED_ENGINE": "library",
            "MILLRACE_EMBED_PRECISION": "float32",
        }
    )
    expected = ServerSettings("0.0.0.0", 8090, "secret", 8, "other", Path("/models/other"), "library", "float32")
    assert settings == expected
    assert ServerSettings.from_environment({"MILLRACE_EMBED_SERVER_PORT": "", "MILLRACE_EMBED_MODEL_PATH": ""}) == (
        ServerSettings.from_environment({})
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("SERVER_PORT", "x"), ("SERVER_PORT", "70000"), ("THREADS", "0"), ("ENGINE", "fast"), ("PRECISION", "int8")],
)
def test_an_invalid_setting_is_named(name: str, value: str) -> None:
    """The server refuses to start with a setting that it does not understand."""
    with pytest.raises(ConfigurationError, match=f"MILLRACE_EMBED_{name}"):
        ServerSettings.from_environment({f"MILLRACE_EMBED_{name}": value})


def test_the_api_key_is_not_in_the_repr() -> None:
    """Logging the settings does not reveal the key."""
    assert "secret" not in repr(ServerSettings.from_environment({"MILLRACE_EMBED_API_KEY": "secret"}))
