"""What templates may do, and how they fail: clearly, alone, and without telling a value."""

import pytest

from cairn.activation.templates import MAX_OUTPUT_BYTES, CompiledTemplate, TemplateError, check_syntax

PROFILE = {"profile": {"name": "<Ada>", "secret": "hush"}, "entry": {}, "event": {}}


def render(text: str, variables: dict = PROFILE, **parts: str) -> str:
    return CompiledTemplate(parts.get("subject", "s"), text, parts.get("html", "")).render(variables).text


def failure(text: str, variables: dict = PROFILE) -> str:
    with pytest.raises(TemplateError) as error:
        render(text, variables)
    return str(error.value)


def test_a_cart_is_listed() -> None:
    entry = {"properties": {"products": [{"title": "Tent", "price": 120}, {"title": "Mug", "price": 9.5}]}}
    text = "{% for item in entry.properties.products %}{{ loop.index }}/{{ loop.length }} {{ item.title }} {{ item.price }}\n{% endfor %}"
    assert render(text, {"entry": entry}) == "1/2 Tent 120\n2/2 Mug 9.5\n"


def test_html_is_escaped_and_text_is_not() -> None:
    template = CompiledTemplate("Hi {{ profile.name }}", "{{ profile.name }}", "<b>{{ profile.name }}</b>")
    message = template.render(PROFILE)
    assert (message.subject, message.text, message.html) == ("Hi <Ada>", "<Ada>", "<b>&lt;Ada&gt;</b>")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ profile.nickname }}", "text: the template needs `nickname`, which is not there"),
        ("{{ profile['nickname'] }}", "text: the template needs `nickname`, which is not there"),
        ("{{ nobody }}", "text: the template needs `nobody`, which is not there"),
        ("{% for x in profile.cart %}{% endfor %}", "text: the template needs `cart`, which is not there"),
        ("{{ 1 / 0 }}", "text: the template failed with ZeroDivisionError"),
        ("{{ profile.secret + 1 }}", "text: the template failed with TypeError"),
        ("{% include 'x' %}", "text: the template failed with TypeError"),
    ],
)
def test_failures_name_the_cause_and_no_value(text: str, said: str) -> None:
    assert failure(text) == said


def test_a_variable_may_be_made_optional() -> None:
    assert (
        render("{{ profile.nickname | default('you') }}{% if profile.nickname is defined %}!{% endif %}")
        == "you"
    )


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ profile.update({'a': 1}) }}",
        "{{ 'x' * 100000000 }}",
        "{{ [0] * 100000000 }}",
        "{{ 9 ** 99999 }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for a in range(90000) %}{{ 'x' * 90000 }}{% endfor %}",
    ],
)
def test_what_would_break_out_or_run_away_fails_soon(text: str) -> None:
    assert failure(text)


def test_the_output_is_limited() -> None:
    big = {"profile": {"text": "é" * (MAX_OUTPUT_BYTES // 2 + 1)}}
    assert failure("{{ profile.text }}", big) == "the text would be larger than 1 MiB"
    assert render("{{ profile.text }}", {"profile": {"text": "x" * MAX_OUTPUT_BYTES}})


def test_a_subject_is_one_line() -> None:
    template = CompiledTemplate("{{ profile.name }}", "t", "")
    with pytest.raises(TemplateError, match="more than one line"):
        template.render({"profile": {"name": "a\r\nBcc: x@example.com"}})


def test_syntax_is_checked_with_lines() -> None:
    problems = check_syntax("{{ a", "fine", "one\ntwo {% nope %}")
    assert [(problem.part, problem.line) for problem in problems] == [("subject", 1), ("html", 2)]
    assert check_syntax("{{ a }}", "b", "") == ()
