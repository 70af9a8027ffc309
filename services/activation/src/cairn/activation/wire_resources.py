"""Owns what a connection and a template may look like: all violations at once, each with its field. Pure but for secrets,
which are looked for so that a missing one is found by whoever names it.
"""

import re

from cairn.activation.channels import mail, smtp
from cairn.activation.normalize import IDENTIFIERS
from cairn.activation.secrets import MissingSecretError, Secrets
from cairn.activation.templates import check_syntax
from cairn.activation.wire import parse_id
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.auth import is_loopback
from cairn.runtime.errors import FieldViolation

MAX_PART_BYTES = 256 * 1024
MAX_SUBJECT_BYTES = 4 * 1024
_MAX_TEXT = 256
_MAX_POOL = 32
_DIGITS = re.compile(r"[0-9]{1,32}")
_URL = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")
_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}|\[[0-9A-Fa-f:.]+\]")


class _Findings:
    def __init__(self, root: str) -> None:
        self._root = root
        self.violations: list[FieldViolation] = []

    def add(self, field: str, description: str) -> None:
        self.violations.append(FieldViolation(f"{self._root}.{field}", description))

    def secret(self, field: str, name: str, secrets: Secrets) -> None:
        if name:
            try:
                secrets.read(name)
            except MissingSecretError as error:
                self.add(field, str(error))

    def name(self, kind: str, name: str) -> None:
        if not parse_id(kind, name):
            self.add("name", f"write {kind}/ID, the id of lower-case letters, digits and dashes")


def check_connection(connection: pb.Connection, secrets: Secrets) -> list[FieldViolation]:
    """All that is wrong with a connection."""
    findings = _Findings("connection")
    findings.name("connections", connection.name)
    kind = connection.WhichOneof("kind")
    if kind is None:
        findings.add("kind", "is required: smtp, meta_audience or log")
    elif kind == "smtp":
        _check_smtp(connection.smtp, secrets, findings)
    elif kind == "meta_audience":
        _check_meta(connection.meta_audience, secrets, findings)
    return findings.violations


def _check_smtp(connection: pb.SmtpConnection, secrets: Secrets, findings: _Findings) -> None:
    if not _HOST.fullmatch(connection.host):
        findings.add("smtp.host", "is required: a host name or an address")
    if not 0 <= connection.port <= 65535:
        findings.add(
            "smtp.port", f"is {connection.port}; a port is 1 to 65535, 0 or none is {smtp.DEFAULT_PORT}"
        )
    if connection.security not in pb.SmtpSecurity.values():
        findings.add("smtp.security", "is unknown: NONE, STARTTLS or TLS")
    elif (
        connection.username
        and smtp.effective_security(connection) == pb.SMTP_SECURITY_NONE
        and not is_loopback(connection.host)
    ):
        findings.add("smtp.security", "would send the password in the clear; use STARTTLS or TLS")
    if len(connection.username) > _MAX_TEXT or any(c in connection.username for c in "\r\n\0"):
        findings.add("smtp.username", f"is one line of at most {_MAX_TEXT} characters")
    if connection.username and not connection.password_secret:
        findings.add("smtp.password_secret", "is required with a user name")
    findings.secret("smtp.password_secret", connection.password_secret, secrets)
    if len(connection.from_address) > 2 * _MAX_TEXT or mail.parse_sender(connection.from_address) is None:
        findings.add("smtp.from_address", "is required: an address or `Name <address>`, in one line")
    if len(connection.address_attribute) > _MAX_TEXT:
        findings.add("smtp.address_attribute", f"has more than {_MAX_TEXT} characters")
    if not 0 <= connection.pool_size <= _MAX_POOL:
        findings.add(
            "smtp.pool_size", f"is {connection.pool_size}; 1 to {_MAX_POOL} messages go side by side"
        )


def _check_meta(connection: pb.MetaAudienceConnection, secrets: Secrets, findings: _Findings) -> None:
    if not _DIGITS.fullmatch(connection.audience_id):
        findings.add("meta_audience.audience_id", "is required: the audience's id, digits")
    if not connection.access_token_secret:
        findings.add("meta_audience.access_token_secret", "is required: the name of the secret")
    findings.secret("meta_audience.access_token_secret", connection.access_token_secret, secrets)
    findings.secret("meta_audience.app_secret_secret", connection.app_secret_secret, secrets)
    if connection.base_url and not _URL.fullmatch(connection.base_url):
        findings.add("meta_audience.base_url", "is an http or https address with the API's version")
    elif connection.base_url.startswith("http://"):
        host = connection.base_url.removeprefix("http://").partition("/")[0]
        if not is_loopback(host.rpartition(":")[0] if host.rpartition(":")[1] else host):
            findings.add("meta_audience.base_url", "would send the token in the clear; use https")
    for identifier, attribute in sorted(connection.identifiers.items()):
        if identifier not in IDENTIFIERS:
            known = ", ".join(sorted(IDENTIFIERS))
            findings.add(f"meta_audience.identifiers[{identifier[:40]}]", f"is unknown; there are {known}")
        if not 1 <= len(attribute) <= _MAX_TEXT:
            findings.add(
                f"meta_audience.identifiers[{identifier[:40]}]", "needs the name of a profile attribute"
            )


def check_template(template: pb.Template) -> list[FieldViolation]:
    """All that is wrong with a template; a syntax error with its line."""
    findings = _Findings("template")
    findings.name("templates", template.name)
    limits = (("subject", MAX_SUBJECT_BYTES), ("text", MAX_PART_BYTES), ("html", MAX_PART_BYTES))
    too_long = set()
    for field, limit in limits:
        part = getattr(template, field)
        if not part and field != "html":
            findings.add(field, "is required")
        if len(part.encode()) > limit:
            too_long.add(field)
            findings.add(field, f"has {len(part.encode()):,} bytes; at most {limit:,} can be taken")
    if "\n" in template.subject or "\r" in template.subject:
        findings.add("subject", "has more than one line")
    parts = {field: "" if field in too_long else getattr(template, field) for field, _ in limits}
    for problem in check_syntax(**parts):
        findings.add(problem.part, f"line {problem.line}: {problem.message}")
    return findings.violations
