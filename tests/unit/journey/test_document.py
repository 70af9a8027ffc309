"""From YAML to messages: the contract's fields are the schema, and whatever is wrong is told with its line."""

from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from cairn.journey.document import MAX_DOCUMENT_BYTES, parse_duration_us, read_documents


def read(text: str) -> dict[str, Any]:
    """The one document of a text, as its fields."""
    documents, violations = read_documents(text)
    assert violations == ()
    (document,) = documents
    return MessageToDict(document.message, preserving_proto_field_name=True)


def wrong(text: str) -> list[tuple[int, str, str]]:
    _, violations = read_documents(text)
    assert violations
    return [(violation.line, violation.path, violation.message) for violation in violations]


FIELDS = (
    "known here: name, purpose, type, goal, reentry, skip_stages, exit_criteria, stages, key, time_zone, audience, "
    "schedule, rate, state, etag, latest_version, create_time, update_time, pause"
)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("name: a", {"name": "a"}),
        ("{name: a, type: REAL_TIME}", {"name": "a", "type": "JOURNEY_TYPE_REAL_TIME"}),
        ("type: JOURNEY_TYPE_REAL_TIME", {"type": "JOURNEY_TYPE_REAL_TIME"}),
        ("purpose: {kind: WIN_BACK}", {"purpose": {"kind": "PURPOSE_KIND_WIN_BACK"}}),
        ("reentry: {mode: ALWAYS, maxEntries: 3}", {"reentry": {"mode": "REENTRY_MODE_ALWAYS", "max_entries": 3}}),
        ("reentry: {cooldown: 7d}", {"reentry": {"cooldown": "604800s"}}),
        ("reentry: {cooldown: 1h30m}", {"reentry": {"cooldown": "5400s"}}),
        ("reentry: {cooldown: 0.5s}", {"reentry": {"cooldown": "0.500s"}}),
        ("skip_stages: false", {"skip_stages": False}),
        ("skipStages: on", {"skip_stages": True}),
        ("exitCriteria: [{name: a, stale: 1w}]", {"exit_criteria": [{"name": "a", "stale": "604800s"}]}),
        ("stages: [{steps: [{end: {}}, {end: }]}]", {"stages": [{"steps": [{"end": {}}, {"end": {}}]}]}),
        ("goal: &it {criteria: 'true'}", {"goal": {"criteria": "true"}}),
        (
            "stages: [{name: a, entry: &it 'event.name == \"x\"'}, {name: b, milestone: *it}]",
            {
                "stages": [
                    {"name": "a", "entry": 'event.name == "x"'},
                    {"name": "b", "milestone": 'event.name == "x"'},
                ]
            },
        ),
        ("name: '123'", {"name": "123"}),
        ("name: yes", {"name": "yes"}),
        ("name: null\npurpose:\n", {"purpose": {}}),
        ("purpose: {description: 好 😀}", {"purpose": {"description": "好 😀"}}),
        ("purpose:\n  description: |\n    two\n    lines\n", {"purpose": {"description": "two\nlines\n"}}),
        ("create_time: 2027-01-31T09:00:00Z", {"create_time": "2027-01-31T09:00:00Z"}),
        ("\ufeffname: a", {"name": "a"}),
        (
            "connection: {meta_audience: {identifiers: {EMAIL: email, PHONE: phone}}}",
            {"meta_audience": {"identifiers": {"EMAIL": "email", "PHONE": "phone"}}},
        ),
        ("name: a\r\ntype: REAL_TIME\r\n", {"name": "a", "type": "JOURNEY_TYPE_REAL_TIME"}),
    ],
)  # fmt: skip
def test_read(text: str, fields: dict[str, Any]) -> None:
    assert read(text) == fields


@pytest.mark.parametrize(
    ("text", "line", "path", "said"),
    [
        # Fields
        ("name: a\nstags: []", 2, "stags", "is no field; did you mean stages?"),
        ("name: a\nzzz: 1", 2, "zzz", f"is no field; {FIELDS}"),
        ("stages:\n- name: a\n  exit_criterion: []", 3, "stages[0].exit_criterion", "is no field; did you mean"),
        ("stages:\n- steps:\n  - wait:\n      until: x", 4, "stages[0].steps[0].wait.until", "is 'x'; a moment is written as 2027-01-31T09:00:00Z"),
        ("stages: [{steps: [{wait: {until: 2027-01-31T09:00:00}}]}]", 1, "stages[0].steps[0].wait.until", "a moment is written as"),
        ("stages: [{steps: [{wait: {untl: x}}]}]", 1, "stages[0].steps[0].wait.untl", "is no field; did you mean until?"),
        ("2: 3", 1, "2", "is no field"),
        ("? [a]\n: b", 1, "", "is no field"),
        ("? {a: b}\n: c\nname: a", 1, "", "is no field"),
        ("<<: {name: a}", 1, "<<", "is no field"),
        ('"\\ud800": a', 1, "", "holds a lone surrogate, which is no text"),
        ("name: a\nname: b", 2, "name", "is given twice"),
        ("skip_stages: true\nskipStages: true", 2, "skip_stages", "is given twice"),
        (
            "exit_criteria:\n- criteria: 'true'\n  stale: 1d",
            3,
            "exit_criteria[0].stale",
            "is given beside criteria; only one of criteria, stale can be",
        ),
        # Values
        ("type: BATCHED", 1, "type", "is 'BATCHED'; it is one of REAL_TIME"),
        ("type: UNSPECIFIED", 1, "type", "it is one of REAL_TIME"),
        ("type: 1", 1, "type", "is '1'; it is one of REAL_TIME"),
        ("purpose: {kind: welcome}", 1, "purpose.kind", "it is one of WELCOME, PURCHASE, ANNIVERSARY, WIN_BACK, CUSTOM"),
        ("reentry: {cooldown: 3}", 1, "reentry.cooldown", "is '3'; a duration is written as 90s, 3h, 1h30m or 24d"),
        ("reentry: {cooldown: -3h}", 1, "reentry.cooldown", "a duration is written"),
        ("reentry: {cooldown: 3 h}", 1, "reentry.cooldown", "a duration is written"),
        ("reentry: {cooldown: [3h]}", 1, "reentry.cooldown", "a duration is written"),
        ("reentry: {cooldown: 999999999999w}", 1, "reentry.cooldown", "a duration is written"),
        ("reentry: {max_entries: many}", 1, "reentry.max_entries", "is 'many'; it is a whole number"),
        ("reentry: {max_entries: 1.5}", 1, "reentry.max_entries", "it is a whole number"),
        ("reentry: {max_entries: 2147483648}", 1, "reentry.max_entries", "it is a whole number"),
        ("skip_stages: 1", 1, "skip_stages", "is '1'; it is true or false"),
        ("skip_stages: 'true'", 1, "skip_stages", "it is true or false"),
        ("name: 123", 1, "name", "is '123', which YAML does not read as text; put it in quotes"),
        ("name: 2026-01-01", 1, "name", "put it in quotes"),
        ("name: !!binary aGk=", 1, "name", "put it in quotes"),
        ("name: !!python/object:os.system x", 1, "name", "put it in quotes"),
        ("name: [a]", 1, "name", "is a list; it is a single value"),
        ("name: {a: b}", 1, "name", "is a mapping; it is a single value"),
        ('name: "\\ud800"', 1, "name", "holds a lone surrogate, which is no text"),
        ("create_time: 2027-01-31T09:00:00", 1, "create_time", "a moment is written as 2027-01-31T09:00:00Z"),
        ("create_time: soon", 1, "create_time", "is 'soon'; a moment is written"),
        ("goal: 'true'", 1, "goal", "is a value; it is a mapping with criteria"),
        ("goal: ['true']", 1, "goal", "is a list; it is a mapping with criteria"),
        ("stages: {name: a}", 1, "stages", "is a mapping; it is a list"),
        ("stages: one", 1, "stages", "is a value; it is a list"),
        ("stages: [one]", 1, "stages[0]", "is a value; it is a mapping with name, entry, milestone"),
        # Documents
        ("just text", 1, "", "is a value; a document is a mapping with name, type and stages"),
        ("\n- name: a", 2, "", "is a list; a document is a mapping"),
        ("name: [", 1, "", "is not YAML: "),
        ("name: a\n\tb: c", 2, "", "is not YAML: "),
        ("name: *nobody", 1, "", "is not YAML: found undefined alias"),
        ("name: a\0b", 1, "", "is not YAML: holds characters that YAML does not allow"),
        ("\0", 1, "", "is not YAML: holds characters that YAML does not allow"),
        ("name: \ud800", 1, "", "is not YAML: holds characters that YAML does not allow"),
        ('name: "\\UFFFFFFFF"', 1, "", "is not YAML"),
        ("%YAML 1" + "1" * 5000 + ".1\n--- a", 1, "", "is not YAML"),
        ("[" * 2_000, 1, "", "is nested too deep"),
        ("{a: " * 1_000, 1, "", "is nested too deep"),
        ("x" * (MAX_DOCUMENT_BYTES + 1), 1, "", f"a file has at most {MAX_DOCUMENT_BYTES}"),
        # Wrappers
        ("connection: {nme: a}", 1, "connection.nme", "is no field; did you mean name?"),
        ("template: [a]", 1, "template", "is a list; it is a mapping with name"),
        (
            "connection: {meta_audience: {identifiers: [EMAIL]}}",
            1,
            "connection.meta_audience.identifiers",
            "is a list; it is a mapping of names to texts",
        ),
        (
            "connection: {meta_audience: {identifiers: {EMAIL: [a]}}}",
            1,
            "connection.meta_audience.identifiers",
            "is nested; it is a mapping of names to texts",
        ),
        (
            'connection: {meta_audience: {identifiers: {EMAIL: "\\ud800"}}}',
            1,
            "connection.meta_audience.identifiers",
            "holds a lone surrogate, which is no text",
        ),
        ("template: {name: a}\nconnection: {name: b}", 1, "template", "is no field"),
    ],
    ids=lambda value: value[:40].encode("unicode_escape").decode() if isinstance(value, str) else None,
)  # fmt: skip
def test_wrong(text: str, line: int, path: str, said: str) -> None:
    found = wrong(text)
    assert (found[0][0], found[0][1]) == (line, path)
    assert said in found[0][2]


def test_everything_that_is_wrong_is_told_at_once_with_its_line() -> None:
    found = wrong("name: [a]\ntype: BOTH\nstages:\n- nme: a\n  steps:\n  - wait: {duration: soon}\n")
    assert [(line, path) for line, path, _ in found] == [
        (1, "name"),
        (2, "type"),
        (4, "stages[0].nme"),
        (6, "stages[0].steps[0].wait.duration"),
        # What is wrong with the journey as far as it could be read: not its name, which was told already.
        (4, "stages[0].entry"),
    ]


def test_several_documents_and_where_each_begins() -> None:
    text = "# a journey\nname: a\n---\n---\nconnection: {name: email}\n---\ntemplate: {name: hello}\n---\nnme: b\n"
    documents, violations = read_documents(text)
    assert [(document.kind, document.line, document.message.name) for document in documents] == [  # type: ignore[attr-defined]
        ("journey", 2, "a"),
        ("connection", 5, "email"),
        ("template", 7, "hello"),
    ]
    assert [(violation.line, violation.path) for violation in violations] == [
        (9, "nme"),
        (9, "type"),
        (9, "stages"),
    ]


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n---\n", "null", "~"])
def test_nothing_is_no_document(text: str) -> None:
    assert read_documents(text) == ((), ())


def test_what_stands_before_broken_yaml_is_still_read() -> None:
    documents, violations = read_documents("name: a\n---\nname: [")
    assert [document.line for document in documents] == [1]
    assert len(violations) == 1


@pytest.mark.parametrize(
    "text",
    [
        "stages: &s [{name: a, exit_criteria: *s}]",
        "stages: &s [*s]",
        "goal: &g {criteria: *g}",
        "&a {name: *a, goal: *a}",
        "? &k [*k]\n: b",
    ],
)
def test_what_contains_itself_ends(text: str) -> None:
    assert wrong(text)


def test_a_few_aliases_can_not_make_a_small_text_endless() -> None:
    lines = [
        "a0: &a0 [{name: x}, {name: x}, {name: x}, {name: x}, {name: x}, {name: x}, {name: x}, {name: x}]"
    ]
    lines += [f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 8)}]" for number in range(1, 8)]
    assert wrong("\n".join([*lines, "stages: *a7"]))
    steps = "[" + ", ".join(["{name: x}"] * 300) + "]"
    bomb = f"stages:\n- steps: &steps {steps}\n" + "- steps: *steps\n" * 300
    assert wrong(bomb)[0][2] == "holds more than 50000 values"


def test_a_long_key_is_not_repeated_at_length() -> None:
    text = "goal: {? &key " + "k" * 100_000 + " : 1}\nstages:\n" + "- {? *key : 1}\n" * 100
    assert sum(len(path) + len(message) for _, path, message in wrong(text)) < 100_000


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90s", 90_000_000),
        ("3h", 10_800_000_000),
        ("24d", 2_073_600_000_000),
        ("1w", 604_800_000_000),
        ("250ms", 250_000),
        ("1h30m", 5_400_000_000),
        ("1m5ms", 60_005_000),
        ("0.5s", 500_000),
        ("1.5h", 5_400_000_000),
        ("0.000001s", 1),
        ("0s", 0),
        ("", None),
        ("h", None),
        ("3", None),
        ("3H", None),
        ("3h ", None),
        ("3h\n", None),
        ("-3h", None),
        (".5s", None),
        ("1,5h", None),
        ("٣h", None),
        ("3hours", None),
        ("1" * 13 + "s", None),
    ],
)
def test_durations(text: str, value: int | None) -> None:
    assert parse_duration_us(text) == value
