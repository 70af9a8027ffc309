"""Owns what is found wrong in a connection or a template: each violation with its field, all of them at once."""

import re
from collections.abc import Sequence

from yarl import URL

from cairn.activation.channels.addresses import MAX_URL_CHARS, IpNetwork
from cairn.activation.secrets import MissingSecretError, Secrets
from cairn.activation.wire import parse_id
from cairn.runtime.auth import is_loopback
from cairn.runtime.errors import FieldViolation

MAX_TEXT = 256
"""Most characters of a short text in a connection."""

_URL = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")
_HEADER_BREAKS = frozenset("\r\n\0")


class Findings:
    """Violations below a root field, "connection" or "template". `allowed_networks` are those that webhooks may lead to."""

    def __init__(
        self, root: str, secrets: Secrets | None = None, allowed_networks: Sequence[IpNetwork] = ()
    ) -> None:
        self._root = root
        self._secrets = secrets
        self.allowed_networks = allowed_networks
        self.violations: list[FieldViolation] = []

    def add(self, field: str, description: str) -> None:
        """Something is wrong with a field, named from the root."""
        self.violations.append(FieldViolation(f"{self._root}.{field}", description))

    def resource_name(self, kind: str, name: str) -> None:
        """It has to be `kind/ID`, or the id alone."""
        if not parse_id(kind, name):
            self.add("name", f"write {kind}/ID, the id of lower-case letters, digits and dashes")

    def secret(self, field: str, name: str, *, required: bool = False) -> str:
        """It has to name a secret that there is; its value, "" where there is none to be looked at."""
        if not name:
            if required:
                self.add(field, "is required: the name of the secret")
            return ""
        if self._secrets is None:
            return ""
        try:
            return self._secrets.read(name)
        except MissingSecretError as error:
            self.add(field, str(error))
            return ""

    def short_text(self, field: str, text: str) -> None:
        """It has to be one line that is not long."""
        if len(text) > MAX_TEXT or not _HEADER_BREAKS.isdisjoint(text):
            self.add(field, f"is one line of at most {MAX_TEXT} characters")

    def matches(self, field: str, text: str, pattern: re.Pattern[str], description: str) -> None:
        """It has to match all of a pattern."""
        if not pattern.fullmatch(text):
            self.add(field, description)

    def base_url(self, field: str, url: str) -> None:
        """It has to be where an API is, or empty: https, or http on this machine's loopback."""
        if not url:
            return
        host = _host_of(url) if len(url) <= MAX_URL_CHARS and _URL.fullmatch(url) else ""
        if not host:
            self.add(field, "is an http or https address, with the API's version where it has one")
        elif url.startswith("http://") and not is_loopback(host):
            self.add(field, "would send secrets in the clear; use https")

    def identifiers(self, field: str, chosen: dict[str, str], known: frozenset[str]) -> None:
        """Each has to be an identifier that the platform knows, and name an attribute of the profile."""
        for identifier, attribute in sorted(chosen.items()):
            place = f"{field}[{identifier[:40]}]"
            if identifier not in known:
                self.add(place, f"is unknown; there are {', '.join(sorted(known))}")
            if not 1 <= len(attribute) <= MAX_TEXT:
                self.add(place, "needs the name of a profile attribute")

    def pool_size(self, field: str, size: int, most: int) -> None:
        """It has to be a number of things that go side by side; 0 is the default."""
        if not 0 <= size <= most:
            self.add(field, f"is {size}; 1 to {most} go side by side")


def _host_of(url: str) -> str:
    """The host of an address as the client reads it; "" when it can make no sense of it, or of its port."""
    try:
        read = URL(url)
        return (read.host or "") if read.port else ""
    except ValueError:
        return ""
