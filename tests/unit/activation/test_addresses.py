"""Which addresses a webhook may lead to, and what its URL may look like."""

from ipaddress import ip_address, ip_network

import pytest

from cairn.activation.channels.addresses import AddressRule, is_public, literal, read_url, rule_for

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.216.34",
    "100.63.255.255",
    "100.128.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2a00:1450:4001:830::200e",
    "2001:200::1",
    "2003::1",
]
NOT_PUBLIC = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.255",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:8.8.8.8",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::808:808",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:53aa:64c:0:0:a9fe:a9fe",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:a9fe:a9fe::1",
    "2002:808:808::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("text", PUBLIC)
def test_the_public_internet(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_everything_else_is_refused(text: str) -> None:
    address = ip_address(text)
    assert not is_public(address)
    assert not AddressRule((), only_allowed=False)(address)


def test_what_is_allowed_and_what_is_beside_it() -> None:
    rule = AddressRule((ip_network("10.1.0.0/16"), ip_network("fd00::/64")), only_allowed=False)
    allowed = ["10.1.2.3", "fd00::7", "8.8.8.8", "2606:4700::1"]
    refused = ["10.2.0.1", "fd00:0:0:1::7", "169.254.169.254", "::ffff:10.1.2.3"]
    assert all(rule(ip_address(text)) for text in allowed)
    assert not any(rule(ip_address(text)) for text in refused)


def test_without_tls_only_what_is_allowed() -> None:
    allowed = (ip_network("10.1.0.0/16"),)
    plain, secure = (read_url(f"{scheme}://example.com/") for scheme in ("http", "https"))
    assert plain is not None
    assert secure is not None
    assert not rule_for(plain, allowed)(ip_address("8.8.8.8"))
    assert rule_for(plain, allowed)(ip_address("10.1.0.9"))
    assert rule_for(secure, allowed)(ip_address("8.8.8.8"))


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com",
        "https://example.com:8443/a/b?c=%2Fd&e=f",
        "http://10.1.2.3:8080/x",
        "https://[2606:4700::1111]:8443/",
        "https://localhost/",
        "https://a_b.internal./x",
    ],
)
def test_urls(text: str) -> None:
    url = read_url(text)
    assert url is not None
    assert str(url) in (text, f"{text}/")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com",
        "ftp://example.com/",
        "file:///etc/passwd",
        "https://",
        "https:///x",
        "https://user:password@example.com/",
        "https://user@example.com/",
        "https://example.com/#x",
        "https://example.com\\@evil.example/",
        "https://example.com/a b",
        "https://example.com/a\r\nX-Evil: 1",
        "https://example.com/\u00e9",
        "https://ex%61mple.com/",
        "https://example.com:99999/",
        "https://example.com:x/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://127.1/",
        "https://0177.0.0.1/",
        "https://127.0.0.1./",
        "https://example.1/",
        "https://[fe80::1%25eth0]/",
        "https://[::1/",
        "https://" + "a" * 3000,
    ],
)
def test_what_is_no_url(text: str) -> None:
    assert read_url(text) is None


def test_an_address_in_a_url() -> None:
    for text, address in (("https://[::1]:8/", "::1"), ("https://10.0.0.1/", "10.0.0.1")):
        url = read_url(text)
        assert url is not None
        assert literal(url) == ip_address(address)
    named = read_url("https://example.com/")
    assert named is not None
    assert literal(named) is None
