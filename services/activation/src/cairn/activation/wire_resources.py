"""Owns what a connection and a template may look like: all violations at once, each with its field. Pure but for secrets,
which are looked for so that a missing one is found by whoever names it.
"""

from cairn.activation.channels import KINDS, plugin
from cairn.activation.channels.findings import Findings
from cairn.activation.secrets import Secrets
from cairn.activation.templates import check_syntax
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.errors import FieldViolation

MAX_PART_BYTES = 256 * 1024
MAX_SUBJECT_BYTES = 4 * 1024


def check_connection(connection: pb.Connection, secrets: Secrets) -> list[FieldViolation]:
    """All that is wrong with a connection."""
    findings = Findings("connection", secrets)
    findings.resource_name("connections", connection.name)
    kind = connection.WhichOneof("kind")
    if kind is None:
        findings.add("kind", f"is required: {', '.join(KINDS)} or plugin")
    elif kind == "plugin":
        try:
            plugin(connection.plugin.channel).check(connection, findings)
        except LookupError as error:
            findings.add("plugin.channel", str(error))
    elif kind not in KINDS:
        findings.add("kind", f"is {kind}, which this release can't do yet")
    else:
        KINDS[kind].check(connection, findings)
    return findings.violations


def check_template(template: pb.Template) -> list[FieldViolation]:
    """All that is wrong with a template; a syntax error with its line."""
    findings = Findings("template")
    findings.resource_name("templates", template.name)
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
