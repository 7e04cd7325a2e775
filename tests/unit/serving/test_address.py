"""URLs of Redis, as the reader understands them."""

from __future__ import annotations

import ssl
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.errors import ConfigurationError
from include.serving.address import Address

PASSWORD = "p@ss:w/rd?#%é"
IN_URL = quote(PASSWORD, safe="")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", Address()),
        ("redis://cache", Address(host="cache")),
        ("redis://cache:7000", Address(host="cache", port=7000)),
        ("redis://cache:7000/", Address(host="cache", port=7000)),
        ("redis://cache/3", Address(host="cache", db=3)),
        ("redis://cache/3/", Address(host="cache", db=3)),
        ("redis://cache?db=4", Address(host="cache", db=4)),
        ("redis://[::1]:7000/2", Address(host="::1", port=7000, db=2)),
        (f"redis://:{IN_URL}@cache/1", Address(host="cache", password=PASSWORD, db=1)),
        (f"redis://r%40d:{IN_URL}@cache", Address(host="cache", username="r@d", password=PASSWORD)),
        ("unix:///run/redis.sock", Address(path="/run/redis.sock")),
        (f"unix://me:{IN_URL}@/a%20b.sock?db=5", Address(path="/a b.sock", username="me", password=PASSWORD, db=5)),
    ],
)
def test_urls_are_understood(url: str, address: Address) -> None:
    """Host, port, database, socket, user and password come out of the URL, percent-encoding undone."""
    assert Address.from_url(url) == address


def test_tls_always_verifies() -> None:
    """rediss:// means TLS with the certificate and the name checked."""
    tls = Address.from_url("rediss://cache:7000/1").tls
    assert tls is not None
    assert tls.verify_mode is ssl.CERT_REQUIRED
    assert tls.check_hostname
    assert Address.from_url("redis://cache").tls is None


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"http://:{IN_URL}@cache", "scheme"),
        (f":{IN_URL}@cache:6379", "scheme"),
        (f"redis://:{IN_URL}@cache/one", "database is not a number"),
        (f"redis://:{IN_URL}@cache/-1", "database is not a number"),
        (f"redis://:{IN_URL}@cache?db=²", "database is not a number"),
        (f"redis://:{PASSWORD}@cache", "redis://"),  # not encoded
        (f"redis://cache:{IN_URL}", "port is not a number"),
        (f"redis://:{IN_URL}@cache:99999", "port is not a number"),
        (f"unix://:{IN_URL}@", "names no socket"),
        (f"rediss://:{IN_URL}@cache?ssl_ca_certs=/not/there.pem", "ssl_ca_certs cannot be read"),
    ],
)
def test_a_wrong_url_is_named_without_its_password(url: str, says: str) -> None:
    """The message names the setting, what is wrong, and how it should look; never the password."""
    with pytest.raises(ConfigurationError, match="MILLRACE_REDIS_URL must look like") as caught:
        Address.from_url(url)
    assert says in str(caught.value)
    assert "p@ss" not in str(caught.value)
    assert IN_URL not in str(caught.value)


def test_the_password_is_in_no_message() -> None:
    """An address in a log or a message shows where, not how to get in."""
    address = Address.from_url(f"redis://me:{IN_URL}@cache:7000/1")
    assert address.password == PASSWORD
    assert PASSWORD not in repr(address)
    assert str(address) == "cache:7000"
    assert str(Address.from_url(f"unix://:{IN_URL}@/run/redis.sock")) == "/run/redis.sock"


@given(st.text(max_size=40), st.sampled_from(["", "redis://", "rediss://", "unix://", "redis://h:", "redis://h/"]))
def test_any_text_is_an_address_or_a_wrong_setting(text: str, start: str) -> None:
    """No URL raises anything but a wrong setting."""
    try:
        assert Address.from_url(start + text).db >= 0
    except ConfigurationError as exc:
        assert "MILLRACE_REDIS_URL" in str(exc)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_any_password_can_be_written(password: str) -> None:
    """Percent-encoded, every password comes out as it is."""
    assert Address.from_url(f"redis://:{quote(password, safe='')}@cache/1").password == password
