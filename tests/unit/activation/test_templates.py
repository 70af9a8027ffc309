"""What templates may do, and how they fail: clearly, alone, and without telling a value."""

import pytest

from cairn.activation.template_check import check_parts
from cairn.activation.templates import MAX_OUTPUT_BYTES, CompiledTemplate, TemplateError

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
        (
            "{{ profile[profile.secret] }}",
            "text: the template needs `profile[profile.secret]`, which is not there",
        ),
        ("{{ {}['hu' ~ 'sh'] }}", "text: the template needs `[…]`, which is not there"),
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
    assert failure("{{ profile.text }}", big) == "text: would be larger than 1 MiB"
    assert render("{{ profile.text }}", {"profile": {"text": "x" * MAX_OUTPUT_BYTES}})


EVERYDAY = {
    "profile": {
        "name": "Ada Lovelace",
        "tags": ["b", "a", "b"],
        "joined": "2026-11-24T10:00:00Z",
        "none": None,
        "vip": False,
    },
    "entry": {"properties": {"items": [{"t": "Tent", "p": 120.5}, {"t": "Mug", "p": 9}], "total": 1234.5}},
}


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("{{ '%.2f'|format(entry.properties.total) }}", "1234.50"),
        ("{{ '%08.2f' % entry.properties.total }}", "01234.50"),
        ("{{ '{:,.2f}'.format(entry.properties.total) }}", "1,234.50"),
        ("{{ entry.properties.total|round(1) }} {{ 7|float }} {{ '3'|int + 4 }}", "1234.5 7.0 7"),
        ("{{ entry.properties.items|length }} {{ entry.properties['items'][0].t }}", "2 Tent"),
        ("{{ entry.properties.items|map(attribute='p')|sum }}", "129.5"),
        (
            "{% set i = 1 %}{{ entry.properties.items[i].t }} {{ {'Mug': 'cup'}[entry.properties.items[i].t] }} "
            "{{ {profile.name: 1}['Ada Lovelace'] }} {{ profile[profile.name]|default('none') }}",
            "Mug cup 1 none",
        ),
        (
            "{{ '%(name)s is %(name)s' % profile }} {{ '{0[name]}, {p.vip}'.format(profile, p=profile) }}",
            "Ada Lovelace is Ada Lovelace Ada Lovelace, False",
        ),
        ("{{ entry.properties.items|selectattr('p', 'gt', 10)|map(attribute='t')|join(', ') }}", "Tent"),
        ("{{ entry.properties.items|sort(attribute='p')|map(attribute='t')|first }}", "Mug"),
        (
            "{% for i in entry.properties.items if i.p > 10 %}{{ loop.index }}{{ i.t }}{% else %}no{% endfor %}",
            "1Tent",
        ),
        (
            "{% for i in profile.tags %}{{ loop.cycle('x', 'y') }}{{ ', ' if not loop.last }}{% endfor %}",
            "x, y, x",
        ),
        (
            "{{ profile.tags|unique|sort|join(' ') }} {{ 'a' in profile.tags }} {{ 'c' is in profile.tags }}",
            "a b True False",
        ),
        ("{{ profile.name.split(' ')[0] }} {{ profile.name|upper|replace('A', 'o') }}", "Ada oDo LOVELoCE"),
        ("{{ profile.joined[:10] }} {{ profile.name|truncate(6, true, '…', 0) }}", "2026-11-24 Ada L…"),
        (
            "{{ profile.name ~ '/' ~ 5 }} {{ 'ab' + 'cd' }} {{ '-' * 5 }} {{ 2 ** 3 }} {{ 7 % 4 }} {{ 7 // 2 }}",
            "Ada Lovelace/5 abcd ----- 8 3 3",
        ),
        (
            "{% set ns = namespace(sum=0) %}{% for i in range(5) %}{% set ns.sum = ns.sum + i %}{% endfor %}{{ ns.sum }}",
            "10",
        ),
        (
            "{% macro b(t) %}[{{ t }}{{ caller() if caller is defined }}]{% endmacro %}{{ b(1) }}{% call b(2) %}c{% endcall %}",
            "[1][2c]",
        ),
        (
            "{% filter upper %}a{% set x %}b{% endset %}{{ x }}{% endfilter %}{% block c %}d{% endblock %}",
            "ABd",
        ),
        (
            "{{ profile.tags|batch(2)|list|length }} {{ profile.tags|tojson }} {{ [1, (2, 3)] }}",
            '2 ["b", "a", "b"] [1, (2, 3)]',
        ),
        (
            "{% for k, v in entry.properties.items[0].items() %}{{ k }}={{ v }};{% endfor %}",
            "t=Tent;p=120.5;",
        ),
        ("{% for k, v in entry.properties.items[0]|dictsort %}{{ k }}{% endfor %}", "pt"),
        ("{{ ('word ' * 30)|wordwrap(60)|indent(2)|length > 150 }} {{ 'x'|center(5) }}|", "True   x  |"),
        (
            "{{ profile.none|default('you') }} {{ profile.no|d('me') }} {{ ''|default('us', true) }} {{ profile.vip }}",
            "you me us False",
        ),
        (
            "{% if profile.none is none and not profile.none and profile.no is undefined %}yes{% endif %}",
            "yes",
        ),
        (
            "{{ 'a'|e }}{{ '<'|e }}{{ 'x y'|urlencode }} {{ 'www.a.de'|urlize|length }} {{ '<b>x</b>'|striptags }}",
            "a&lt;x%20y 54 x",
        ),
    ],
)
def test_what_people_write(text: str, made: str) -> None:
    assert render(text, EVERYDAY) == made


def test_null_is_not_written() -> None:
    assert failure("{{ profile.none }}", EVERYDAY) == "text: the template shows `profile.none`, which is null"
    assert failure("{{ profile.none|upper }}", EVERYDAY) == "text: the template gives what is null to `upper`"
    assert failure("{{ 'a' ~ profile.none }}", EVERYDAY) == "text: the template joins what is null"


def test_a_loop_of_some_thousand_rounds_is_fine() -> None:
    assert (
        render(
            "{% for i in range(20000) %}{% if i is even and i > 19990 %}{{ i }} {% endif %}{% endfor %}"
        ).count(" ")
        == 4
    )


def test_a_subject_is_one_line() -> None:
    template = CompiledTemplate("{{ profile.name }}", "t", "")
    with pytest.raises(TemplateError, match="subject: has more than one line"):
        template.render({"profile": {"name": "a\r\nBcc: x@example.com"}})


def test_syntax_is_checked_with_lines() -> None:
    problems = check_parts({"subject": "{{ a", "text": "fine", "html": "one\ntwo {% nope %}"})
    assert [(problem.part, problem.line) for problem in problems] == [("subject", 1), ("html", 2)]
    assert check_parts({"subject": "{{ profile.a }}", "text": "b"}) == []
