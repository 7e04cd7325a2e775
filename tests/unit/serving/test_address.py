"""Parsing Redis URLs."""

from __future__ import annotations

import ssl
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.errors import ConfigurationError
from include.serving.address import RedisAddress

PASSWORD = "p@ss:w/rd?#%é"
ENCODED_PASSWORD = quote(PASSWORD, safe="")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", RedisAddress()),
        ("redis://cache", RedisAddress(host="cache")),
        ("redis://cache:7000", RedisAddress(host="cache", port=7000)),
        ("redis://cache:7000/", RedisAddress(host="cache", port=7000)),
        ("redis://cache/3", RedisAddress(host="cache", db=3)),
        ("redis://cache/3/", RedisAddress(host="cache", db=3)),
        ("redis://cache?db=4", RedisAddress(host="cache", db=4)),
        ("redis://[::1]:7000/2", RedisAddress(host="::1", port=7000, db=2)),
        (f"redis://:{ENCODED_PASSWORD}@cache/1", RedisAddress(host="cache", password=PASSWORD, db=1)),
        (f"redis://r%40d:{ENCODED_PASSWORD}@cache", RedisAddress(host="cache", username="r@d", password=PASSWORD)),
        ("unix:///run/redis.sock", RedisAddress(path="/run/redis.sock")),
        (
            f"unix://me:{ENCODED_PASSWORD}@/a%20b.sock?db=5",
            RedisAddress(path="/a b.sock", username="me", password=PASSWORD, db=5),
        ),
    ],
)
def test_valid_urls_are_parsed(url: str, address: RedisAddress) -> None:
    """Host, port, database, socket, user name and password come from the URL, with percent-encoding decoded."""
    assert RedisAddress.from_url(url) == address


def test_tls_always_verifies() -> None:
    """rediss:// means TLS with the certificate and the host name verified."""
    tls = RedisAddress.from_url("rediss://cache:7000/1").tls
    assert tls is not None
    assert tls.verify_mode is ssl.CERT_REQUIRED
    assert tls.check_hostname
    assert RedisAddress.from_url("redis://cache").tls is None


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"http://:{ENCODED_PASSWORD}@cache", "scheme"),
        (f":{ENCODED_PASSWORD}@cache:6379", "scheme"),
        (f"redis://:{ENCODED_PASSWORD}@cache/one", "database is not a number"),
        (f"redis://:{ENCODED_PASSWORD}@cache/-1", "database is not a number"),
        (f"redis://:{ENCODED_PASSWORD}@cache?db=²", "database is not a number"),
        (f"redis://:{PASSWORD}@cache", "redis://"),  # not percent-encoded
        (f"redis://cache:{ENCODED_PASSWORD}", "port is not a number"),
        (f"redis://:{ENCODED_PASSWORD}@cache:99999", "port is not a number"),
        (f"unix://:{ENCODED_PASSWORD}@", "names no socket"),
        (f"rediss://:{ENCODED_PASSWORD}@cache?ssl_ca_certs=/not/there.pem", "ssl_ca_certs cannot be read"),
    ],
)
def test_an_invalid_url_is_reported_without_its_password(url: str, message: str) -> None:
    """The error names the setting, what is wrong and the expected format, but never the password."""
    with pytest.raises(ConfigurationError, match="MILLRACE_REDIS_URL must look like") as caught:
        RedisAddress.from_url(url)
    assert message in str(caught.value)
    assert "p@ss" not in str(caught.value)
    assert ENCODED_PASSWORD not in str(caught.value)


def test_the_password_is_never_printed() -> None:
    """An address in a log or an error shows the server but not the credentials."""
    address = RedisAddress.from_url(f"redis://me:{ENCODED_PASSWORD}@cache:7000/1")
    assert address.password == PASSWORD
    assert PASSWORD not in repr(address)
    assert str(address) == "cache:7000"
    assert str(RedisAddress.from_url(f"unix://:{ENCODED_PASSWORD}@/run/redis.sock")) == "/run/redis.sock"


@given(st.text(max_size=40), st.sampled_from(["", "redis://", "rediss://", "unix://", "redis://h:", "redis://h/"]))
def test_any_text_is_parsed_or_rejected(text: str, start: str) -> None:
    """No URL raises anything other than ConfigurationError."""
    try:
        assert RedisAddress.from_url(start + text).db >= 0
    except ConfigurationError as exc:
        assert "MILLRACE_REDIS_URL" in str(exc)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_any_password_can_be_used(password: str) -> None:
    """Every password survives percent-encoding."""
    assert RedisAddress.from_url(f"redis://:{quote(password, safe='')}@cache/1").password == password
