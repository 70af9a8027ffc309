"""Connections, templates and the sending policy as YAML: every field of the contract can be written, and comes back."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.cli.apply import _in_order
from cairn.cli.documents import read_sources, write_document
from cairn.cli.failures import CommandError
from cairn.journey.document import read_documents

KINDS = [field.name for field in pb.Connection.DESCRIPTOR.oneofs_by_name["kind"].fields]
FIRST_OUTPUT_FIELD = 20


def fill(message: Message) -> Message:
    """Sets every field that people write, each to a value of its own."""
    fields: Sequence[FieldDescriptor] = message.DESCRIPTOR.fields
    for number, field in enumerate(fields):
        if field.number < FIRST_OUTPUT_FIELD and field.containing_oneof is None:
            _set(message, field, number)
    return message


def _set(message: Message, field: FieldDescriptor, number: int) -> None:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        value.update({f"KEY_{number}": f"value {number}", "A": "b"})
    elif field.is_repeated and field.message_type is not None:
        _fill_child(value.add())
        _fill_child(value.add())
    elif field.message_type is not None:
        value.SetInParent()
        _fill_child(value)
    elif field.type == FieldDescriptor.TYPE_BYTES:
        setattr(message, field.name, b'{"profile":{"name":"\xc3\x96","tags":["a",null,1.5,true]},"event":{}}')
    elif field.enum_type is not None:
        setattr(message, field.name, field.enum_type.values[-1].number)
    elif field.type == FieldDescriptor.TYPE_BOOL:
        setattr(message, field.name, True)
    elif field.type == FieldDescriptor.TYPE_STRING:
        setattr(message, field.name, f"text {number}")
    else:
        setattr(message, field.name, number + 1)


def _fill_child(value: Message) -> None:
    if isinstance(value, Duration):
        value.seconds = 86_400
    elif isinstance(value, Struct):
        value.update({"list": [1.5, "x", {"deep": True}], "none": None, "text": "21:00"})
    else:
        fill(value)


def filled() -> Iterator[tuple[str, str, Message]]:
    for kind in KINDS:
        connection = fill(pb.Connection())
        assert isinstance(connection, pb.Connection)
        connection.name = "one"
        child = getattr(connection, kind)
        child.SetInParent()
        fill(child)
        yield kind, "connection", connection
    template = fill(pb.Template())
    assert isinstance(template, pb.Template)
    template.name, template.html, template.version = "one", "", 0
    template.text = "Hello\n  {{ profile.first_name }}\n\ngood walking\n"
    yield "mjml template", "template", template
    plain = pb.Template(name="one", subject="s", text="t", html="<p>x</p>\n<p>y</p>")
    yield "html template", "template", plain
    yield "policy", "policy", fill(pb.SendingPolicy())


@pytest.mark.parametrize(
    ("kind", "message"), [pytest.param(kind, message, id=what) for what, kind, message in filled()]
)
def test_every_field_is_written_as_people_write_it_and_read_back_the_same(
    kind: str, message: Message
) -> None:
    stored = type(message)()
    stored.CopyFrom(message)
    if not isinstance(stored, pb.SendingPolicy):
        stored.name = f"{kind}s/one"  # type: ignore[attr-defined]
    stored.etag = "abc"  # type: ignore[attr-defined]
    stored.update_time.seconds = 7  # type: ignore[attr-defined]
    if isinstance(stored, pb.Template):
        stored.version = 3
        if stored.mjml:
            stored.html = "<p>made of it</p>"
    text = write_document(kind, stored)
    (document,), violations = read_documents(text)
    assert violations == ()
    assert (document.kind, document.message) == (kind, message)
    written = yaml.safe_load(text)
    assert list(written) == [kind]
    assert not {"etag", "update_time", "version"} & written[kind].keys()
    assert "made of it" not in text
    assert "SMTP_SECURITY" not in text


def test_durations_are_written_as_people_write_them() -> None:
    text = """
policy:
  frequency_caps: [{count: 2, period: 24h}, {count: 6, period: 1w}]
  quiet_hours: {start: "21:00", end: "08:00"}
"""
    (document,), violations = read_documents(text)
    assert violations == ()
    policy = document.message
    assert isinstance(policy, pb.SendingPolicy)
    assert [cap.period.seconds for cap in policy.frequency_caps] == [86_400, 604_800]
    written = yaml.safe_load(write_document("policy", policy))["policy"]
    assert written["frequency_caps"] == [{"count": 2, "period": "1d"}, {"count": 6, "period": "7d"}]


def test_a_template_of_several_lines_can_be_edited() -> None:
    template = pb.Template(name="templates/a", subject="s", text="one\ntwo\n")
    assert "  text: |\n    one\n    two\n" in write_document("template", template)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("connection:\n  name: a\n  smpt: {host: x}", 3, "did you mean smtp?"),
        ("connection:\n  name: a\n  log: {}\n  ses: {region: x}", 4, "is given beside log"),
        ("connection:\n  name: a\n  rate_limit: {count: 5, period: 1 second}", 3, "90s, 3h"),
        ("connection:\n  name: a\n  meta_audience:\n    audience_id: 123", 4, "put it in quotes"),
        ("connection:\n  name: a\n  smtp: {security: SSL}", 3, "it is one of NONE, STARTTLS, TLS"),
        ("connection:\n  name: a\n  plugin: {channel: x, settings: [1]}", 3, "it is a mapping"),
        ("connection:\n  name: a\n  plugin:\n    settings: {[a]: 1}", 4, "a name is a text"),
        ("template:\n  name: a\n  sample: ada", 3, "it is a mapping"),
        ("policy:\n  quiet_hours: {start: 21:00, end: 08:00}", 2, "put it in quotes"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(CommandError) as caught:
        read_sources([str(file)])
    (finding,) = [each for each in caught.value.details if says in each]
    assert finding.startswith(f"{file}:{line}: ")


def test_a_sample_that_aliases_make_endless_is_refused() -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
    )
    nested = "\n".join(f"    {line}" for line in text.splitlines())
    documents, violations = read_documents(f"template:\n  name: a\n  sample:\n{nested}\n")
    assert documents == ()
    assert any("holds more than" in str(each) for each in violations)


def test_a_sample_holds_what_json_holds() -> None:
    text = """
template:
  name: a
  sample: {profile: {n: 7, price: 189.5, since: 2026-01-01, at: 21:00, no: ~, ok: yes, zip: 01234}}
"""
    (document,), _ = read_documents(text)
    assert isinstance(document.message, pb.Template)
    assert document.message.sample == (
        b'{"profile":{"n":7,"price":189.5,"since":"2026-01-01","at":"21:00","no":null,"ok":true,"zip":"01234"}}'
    )


def test_the_policy_is_applied_before_the_journeys(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "name: a\ntype: REAL_TIME\nstages: [{name: a, entry: 'event.name == \"x\"'}]\n"
        "---\npolicy: {}\n---\nconnection: {name: log, log: {}}"
    )
    assert [each.name for each in _in_order(read_sources([str(file)]))] == ["log", "policy", "a"]


def test_two_policies_are_one_too_many(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("policy: {}\n---\npolicy: {}")
    with pytest.raises(CommandError) as caught:
        read_sources([str(file)])
    assert caught.value.details == (f"{file}:3: policy is given twice, first at {file}:1",)
