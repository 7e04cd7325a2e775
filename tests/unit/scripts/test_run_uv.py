"""pip's network settings, handed on to uv."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.run_uv import parse_pip_config, read_pip_config, uv_environment

INDEX = "https://packages.example/simple"


def test_the_environment_wins_over_the_files() -> None:
    """PIP_INDEX_URL wins over [install], which wins over [global]; every other section is ignored."""
    files = f"global.index-url='https://global.example'\ninstall.index-url='{INDEX}'\nlist.format='columns'\n"
    assert parse_pip_config(files) == {"index-url": INDEX}
    variables = ":env:.index-url='https://env.example'\n"
    assert parse_pip_config(variables + files) == {"index-url": "https://env.example"}


def test_lists_are_separated_by_blanks() -> None:
    """pip has one extra index per line; uv wants them separated by blanks."""
    listing = r"global.extra-index-url='\nhttps://a.example\nhttps://b.example'"
    assert parse_pip_config(listing) == {"extra-index-url": "https://a.example https://b.example"}


def test_pip_lists_what_the_parser_expects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed pip lists its files and the environment in the format that is parsed here."""
    file = tmp_path / "pip.conf"
    file.write_text(f"[global]\nindex-url = {INDEX}\nextra-index-url =\n    https://a.example\n    https://b.example\n")
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    monkeypatch.setenv("PIP_CERT", "/certificates.pem")
    options = read_pip_config(Path(sys.executable))
    assert options["index-url"] == INDEX
    assert options["extra-index-url"] == "https://a.example https://b.example"
    assert options["cert"] == "/certificates.pem"


def test_a_python_without_pip_has_no_options(tmp_path: Path) -> None:
    """If pip cannot list its options, uv runs with its own."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    assert read_pip_config(tmp_path / "bin" / "python") == {}


def test_uv_gets_pips_options(tmp_path: Path) -> None:
    """Index, extra indexes, trusted hosts, proxy and certificates become uv's variables; every index is searched."""
    pip = {
        "index-url": INDEX,
        "extra-index-url": "https://a.example https://b.example",
        "trusted-host": "packages.example",
        "proxy": "http://proxy.example:3128",
        "cert": "/certificates.pem",
    }
    assert uv_environment({"HOME": "/home/me"}, pip) == {
        "HOME": "/home/me",
        "UV_SYSTEM_CERTS": "true",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_DEFAULT_INDEX": INDEX,
        "UV_INDEX": "https://a.example https://b.example",
        "UV_INSECURE_HOST": "packages.example",
        "ALL_PROXY": "http://proxy.example:3128",
        "SSL_CERT_FILE": "/certificates.pem",
    }
    assert uv_environment({}, {"cert": str(tmp_path)})["SSL_CERT_DIR"] == str(tmp_path)


@pytest.mark.parametrize(
    ("variable", "option"),
    [
        ("UV_DEFAULT_INDEX", "index-url"),
        ("UV_INDEX_URL", "index-url"),
        ("UV_INDEX", "extra-index-url"),
        ("UV_EXTRA_INDEX_URL", "extra-index-url"),
        ("UV_INSECURE_HOST", "trusted-host"),
        ("HTTPS_PROXY", "proxy"),
        ("SSL_CERT_FILE", "cert"),
        ("SSL_CERT_DIR", "cert"),
    ],
)
def test_variables_that_are_set_are_left_alone(variable: str, option: str) -> None:
    """What the user sets for uv wins over pip's option."""
    environment = {variable: "set by the user", "UV_NATIVE_TLS": "false", "UV_INDEX_STRATEGY": "first-index"}
    assert uv_environment(environment, {option: "from pip"}) == environment


def test_without_options_only_the_certificates_change() -> None:
    """If pip is not configured, uv uses its default index and the system's certificates."""
    assert uv_environment({}, {}) == {"UV_SYSTEM_CERTS": "true", "UV_INDEX_STRATEGY": "unsafe-best-match"}
