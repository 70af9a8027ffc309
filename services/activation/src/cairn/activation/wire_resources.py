"""Owns what a connection and a template may look like: all violations at once, each with its field. Pure but for secrets,
which are looked for so that a missing one is found by whoever names it.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from cairn.activation.channels import KINDS, dkim, plugin
from cairn.activation.channels.addresses import IpNetwork
from cairn.activation.channels.base import ChannelKind, read_context
from cairn.activation.channels.findings import Findings
from cairn.activation.ledger import Outcome
from cairn.activation.policy import check_rules
from cairn.activation.secrets import Secrets
from cairn.activation.template_check import Problem, check_parts
from cairn.activation.template_mjml import compile_mjml
from cairn.activation.wire import MAX_CONTEXT_BYTES, require_id
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.errors import FieldViolation

MAX_PART_BYTES = 256 * 1024
MAX_SUBJECT_BYTES = 4 * 1024
MAX_SAMPLE_BYTES = 64 * 1024

_REQUIRED = ("subject", "text")
_LIMITS: Mapping[str, int] = MappingProxyType(
    {"subject": MAX_SUBJECT_BYTES, "text": MAX_PART_BYTES, "html": MAX_PART_BYTES, "mjml": MAX_PART_BYTES}
)
_TEMPLATE_VERSION = re.compile(r"templates/([a-z](?:[a-z0-9-]{0,61}[a-z0-9])?)/versions/([1-9][0-9]{0,8})")


def check_connection(
    connection: pb.Connection, secrets: Secrets, allowed_networks: Sequence[IpNetwork] = ()
) -> list[FieldViolation]:
    """All that is wrong with a connection; a webhook may lead to the public internet and to `allowed_networks`."""
    findings = Findings("connection", secrets, allowed_networks)
    findings.resource_name("connections", connection.name)
    kind = connection.WhichOneof("kind")
    if kind is None:
        findings.add("kind", f"is required: {', '.join(KINDS)} or plugin")
    elif kind == "plugin":
        try:
            channel = plugin(connection.plugin.channel)
            channel.check(connection, findings)
            _check_mail(connection, channel, findings)
        except LookupError as error:
            findings.add("plugin.channel", str(error))
    elif kind not in KINDS:
        findings.add("kind", f"is {kind}, which this release can't do yet")
    else:
        KINDS[kind].check(connection, findings)
        _check_mail(connection, KINDS[kind], findings)
    check_rules(connection, findings)
    return findings.violations


def _check_mail(connection: pb.Connection, kind: ChannelKind, findings: Findings) -> None:
    """How mail is signed and unsubscribed from, which only connections that write mail have."""
    options = connection.mail
    if options == pb.MailOptions():
        return
    if not kind.needs_template:
        findings.add("mail", "is for connections that write e-mail; leave it out")
        return
    given = (options.dkim_domain, options.dkim_selector, options.dkim_key_secret)
    if not any(given):
        return
    if not all(given):
        findings.add("mail", "to sign with DKIM needs all of dkim_domain, dkim_selector and dkim_key_secret")
        return
    findings.matches(
        "mail.dkim_domain", options.dkim_domain, dkim.DOMAIN, "is a domain in ASCII and lower case"
    )
    findings.matches(
        "mail.dkim_selector", options.dkim_selector, dkim.SELECTOR, "is a name of letters, digits and dashes"
    )
    key = findings.secret("mail.dkim_key_secret", options.dkim_key_secret)
    if key:
        try:
            dkim.parse_key(key)
        except dkim.BadKeyError as error:
            findings.add("mail.dkim_key_secret", f"can't sign: {error}")


def check_template(template: pb.Template, root: str = "template") -> list[FieldViolation]:
    """All that is wrong with a template, with lines where it has any. Makes its `html` from its `mjml`."""
    findings = Findings(root)
    findings.resource_name("templates", template.name)
    parts = _parts_to_check(template, findings)
    problems = check_parts(parts)
    if "mjml" in parts and not any(problem.part == "mjml" for problem in problems):
        problems += _make_html(template, parts["mjml"])
    for problem in problems:
        line = f"line {problem.line}: " if problem.line else ""
        findings.add(problem.part, line + problem.message)
    return findings.violations + check_context(f"{root}.sample", template.sample, MAX_SAMPLE_BYTES)


def _parts_to_check(template: pb.Template, findings: Findings) -> dict[str, str]:
    parts = {}
    for field, limit in _LIMITS.items():
        source = getattr(template, field)
        if field == "html" and template.mjml:
            continue  # it is made
        size = len(source.encode())
        if not source and field in _REQUIRED:
            findings.add(field, "is required")
        elif size > limit:
            findings.add(field, f"has {size:,} bytes; at most {limit:,} can be taken")
        elif "\0" in source:
            findings.add(field, "contains a NUL character")
        elif source:
            parts[field] = source
    if "\n" in template.subject or "\r" in template.subject:
        findings.add("subject", "has more than one line")
    return parts


def _make_html(template: pb.Template, mjml: str) -> list[Problem]:
    html, problems = compile_mjml(mjml)
    if problems:
        return problems
    if template.html not in ("", html):
        return [Problem("html", 0, "is made from mjml; leave it empty")]
    # MJML may have put the parts of a statement where they make no sense together.
    problems = [
        Problem("mjml", 0, f"its HTML is wrong: {problem.message}") for problem in check_parts({"html": html})
    ]
    if not problems:
        template.html = html
    return problems


def check_unsaved(template: pb.Template) -> list[FieldViolation]:
    """As `check_template`, for one that may have no name yet."""
    if not template.name:
        template.name = "templates/unsaved"
    return check_template(template)


def check_context(field: str, context: bytes, limit: int = MAX_CONTEXT_BYTES) -> list[FieldViolation]:
    """What is wrong with a context or a sample of one; an empty one is fine."""
    if len(context) > limit:
        text = f"has {len(context):,} bytes; at most {limit:,} can be taken"
        return [FieldViolation(field, text)]
    return [FieldViolation(field, "is no JSON object")] if isinstance(read_context(context), Outcome) else []


def parse_template_name(name: str, field: str = "name") -> tuple[str, int]:
    """The id and the version of "templates/x" (0: the newest) or "templates/x/versions/2"; a wrong name is refused."""
    found = _TEMPLATE_VERSION.fullmatch(name)
    if found is None:
        return require_id("templates", name, field), 0
    return found[1], int(found[2])
