"""Owns which addresses a call may go to that an operator's URL leads to. Pure. Refuses whatever is not the public internet.

A URL that somebody typed must not reach what only this machine can: its own services, its network, the cloud's metadata.
"""

import ipaddress
import re
from collections.abc import Sequence

from yarl import URL

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL_CHARS = 2048

_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?")

# https://www.iana.org/assignments/iana-ipv4-special-registry (what is not "globally reachable", and two that are and lead elsewhere:
# 192.0.0.0/24 and the 6to4 relays), multicast and the reserved rest. Written out: Python's own lists changed between its releases.
_NOT_PUBLIC_V4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
# https://www.iana.org/assignments/ipv6-unicast-address-assignments: of IPv6 only this is the internet. Loopback, link-local, unique
# local, multicast, IPv4-mapped and NAT64 (64:ff9b::/96, 64:ff9b:1::/48) all lie outside.
_INTERNET_V6 = ipaddress.IPv6Network("2000::/3")
# https://www.iana.org/assignments/iana-ipv6-special-registry: protocols' own (with Teredo, which holds an IPv4 address), documentation,
# and 6to4, which holds one as well.
_NOT_PUBLIC_V6 = tuple(
    ipaddress.IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)


def is_public(address: IpAddress) -> bool:
    """Whether an address is one of the public internet, reached as itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    return address in _INTERNET_V6 and not any(address in network for network in _NOT_PUBLIC_V6)


class AddressRule:
    """Which addresses are connected to: those in `allowed`, and the public ones unless it is `only_allowed`."""

    def __init__(self, allowed: Sequence[IpNetwork], *, only_allowed: bool) -> None:
        self._allowed = tuple(allowed)
        self._only_allowed = only_allowed

    def __call__(self, address: IpAddress) -> bool:
        if any(address in network for network in self._allowed):
            return True
        return not self._only_allowed and is_public(address)


def rule_for(url: URL, allowed: Sequence[IpNetwork]) -> AddressRule:
    """The rule for a URL: without TLS it leads to the allowed networks only."""
    return AddressRule(allowed, only_allowed=url.scheme != "https")


def read_url(text: str) -> URL | None:
    """An http or https URL as the client will read it, or None.

    Not one with a user, a fragment, characters that readers of URLs disagree about, or an address in a form that only some understand
    (`http://2130706433`, `http://0x7f.1`).
    """
    if not 0 < len(text) <= MAX_URL_CHARS or not text.isascii() or not text.isprintable():
        return None
    if any(character in text for character in ' \\"<>^`{|}#'):
        return None
    try:
        # As it was written: what is quoted stays quoted, or a signature in it would break.
        url = URL(text, encoded=True)
        host, port = url.host or "", url.port
    except ValueError:
        return None
    if url.scheme not in ("http", "https") or not port or url.user is not None:
        return None
    if literal(url) is not None:
        return url if "%" not in host else None
    last = host.rstrip(".").rpartition(".")[2]
    looks_like_an_address = last.isdigit() or last.lower().startswith("0x")
    return url if _NAME.fullmatch(host) and not looks_like_an_address else None


def literal(url: URL) -> IpAddress | None:
    """The address that stands in a URL in place of a name; None where there is a name."""
    try:
        return ipaddress.ip_address(url.host or "")
    except ValueError:
        return None
