"""Owns what a template looks like for a context. Pure."""

from cairn.activation.catalog import compile_template
from cairn.activation.channels.base import read_context, whole_text
from cairn.activation.ledger import Outcome
from cairn.activation.template_check import variables_of
from cairn.activation.templates import with_roots
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.errors import FieldViolation, invalid

UNSUBSCRIBE_URL = "https://example.invalid/u/preview"
"""What a preview shows where a message has its own address."""


def preview(template: pb.Template, context: bytes) -> pb.PreviewTemplateResponse:
    """The message of a template that was checked; INVALID_ARGUMENT with what is missing or wrong, by part."""
    variables = read_context(context)
    assert not isinstance(variables, Outcome), "checked before"
    compiled = compile_template(template)
    with_all = with_roots(variables, UNSUBSCRIBE_URL)
    problems = compiled.problems(with_all)
    if problems:
        violations = [FieldViolation(f"template.{problem.part}", problem.reason) for problem in problems]
        raise invalid("The template can't be rendered for this context.", violations)
    message = compiled.render(with_all)
    parts = {"subject": template.subject, "text": template.text, "html": template.html}
    return pb.PreviewTemplateResponse(
        subject=whole_text(message.subject),
        text=whole_text(message.text),
        html=whole_text(message.html),
        variables=variables_of(parts),
    )
