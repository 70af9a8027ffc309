"""What is known of a template before it is sent: what is wrong, by part and line, and which variables it uses."""

import time

import pytest

from cairn.activation.template_check import check_parts, variables_of
from cairn.activation.template_mjml import MAX_ELEMENTS, compile_mjml
from cairn.activation.templates import CompiledTemplate
from cairn.activation.wire_resources import check_template
from cairn.api.activation.v1 import activation_pb2 as pb


@pytest.mark.parametrize(
    ("source", "problems"),
    [
        ("{{ profile.name }}{{ entry.properties.x }}{{ event.name }}{{ unsubscribe_url }}", []),
        (
            "{% for x in entry.properties.items %}{{ loop.index }}{{ x.title }}{% endfor %}{{ range(3)|list }}",
            [],
        ),
        ("{% macro m(a) %}{{ a }}{{ caller() }}{% endmacro %}{% call m(1) %}{% endcall %}", []),
        ("{% set ns = namespace(x=1) %}{{ ns.x }}{{ dict(a=1).a }}{{ cycler('a').next() }}", []),
        ("{% for event in entry.properties.visits %}{{ event.page }}{% endfor %}", []),
        ("{{ event.get('name') }}{% for k, v in entry.items() %}{{ k }}{% endfor %}", []),
        ("a\n{{ customer.name }}", [(2, "there is no variable `customer`")]),
        ("{% if nobody is defined %}{% endif %}", [(1, "there is no variable `nobody`")]),
        ("{{ lipsum() }}", [(1, "there is no variable `lipsum`")]),
        ("\n\n{{ entry.product }}", [(3, "there is no `entry.product`")]),
        ("{{ event['time'] }}", [(1, "there is no `event.time`")]),
        (
            "{{ profile.name|shout }}\n{{ 1 is loud }}",
            [(1, "there is no filter `shout`"), (2, "there is no test `loud`")],
        ),
        ("{% if false %}{{ profile.name|shout }}{% endif %}", [(1, "there is no filter `shout`")]),
        ("{{ profile.tags|map('shout')|list }}", [(1, "there is no filter `shout`")]),
        ("{{ profile.tags|select('loud')|list }}", [(1, "there is no test `loud`")]),
        ("{{ profile.tags|rejectattr('x', 'loud')|list }}", [(1, "there is no test `loud`")]),
        ("{% include 'x' %}", [(1, "a template stands alone: `include`")]),
        ("{% import 'x' as y %}", [(1, "a template stands alone: `import`")]),
        ("{% from 'x' import y %}", [(1, "a template stands alone: `import`")]),
        ("\n{% extends 'x' %}", [(2, "a template stands alone: `extends`")]),
        ("fine\n{{ a", [(2, "unexpected end of template")]),
        ("{% for x in y %}", [(1, "Unexpected end of template")]),
        ("{% nope %}", [(1, "Encountered unknown tag 'nope'")]),
        ("{{ " + "(" * 500 + "1" + ")" * 500 + " }}", [(1, "is nested too deeply")]),
        ("{{ 1" + " + 1" * 20_000 + " }}", [(1, "is nested too deeply")]),
        ("{{ " + "9" * 10_000 + " }}", [(1, "is nested too deeply, or uses a constant that is too large")]),
    ],
)
def test_problems(source: str, problems: list[tuple[int, str]]) -> None:
    for part in ("subject", "text", "html", "mjml"):
        found = check_parts({part: source})
        assert [(problem.part, problem.line) for problem in found] == [(part, line) for line, _ in problems]
        for problem, (_, said) in zip(found, problems, strict=True):
            assert problem.message.startswith(said)


def test_what_would_take_long_to_compile_is_not_compiled() -> None:
    [problem] = check_parts({"text": "{{ profile.x }}" * 5000})
    assert problem.message.startswith("has 10,001 expressions, statements and pieces of text")
    assert check_parts({"text": "{{ profile.x }}" * 1000}) == []


def test_a_thousand_problems_are_not_told() -> None:
    assert len(check_parts({"text": "{{ a.b|x }}" * 1000})) == 20


def test_thousands_of_unknown_variables_are_found_soon() -> None:
    began = time.process_time()
    assert len(check_parts({"text": "".join(f"{{{{ a{number} }}}}" for number in range(4_000))})) == 20
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    ("source", "variables"),
    [
        ("nothing", []),
        ("{{ profile.first_name|default('you')|upper }}", ["profile.first_name"]),
        (
            "{% if profile.vip and not profile['last name'] %}{% endif %}",
            ["profile.last name", "profile.vip"],
        ),
        (
            "{% for x in entry.properties.products %}{{ x.title }}{% for y in x.sizes %}{{ y }}{% endfor %}{% endfor %}",
            [
                "entry.properties.products",
                "entry.properties.products[].sizes",
                "entry.properties.products[].sizes[]",
                "entry.properties.products[].title",
            ],
        ),
        ("{{ entry.properties.products[0].title }}", ["entry.properties.products[0].title"]),
        (
            "{{ profile.get('x') }}{{ event.properties.tags|join(', ') }}",
            ["event.properties.tags", "profile"],
        ),
        ("{{ profile[event.name] }}", ["event.name", "profile"]),
        ("{% set event = 1 %}{{ event.x }}{{ unsubscribe_url }}", ["unsubscribe_url"]),
        ("{% raw %}{{ profile.x }}{% endraw %}{# {{ profile.y }} #}", []),
    ],
)
def test_variables(source: str, variables: list[str]) -> None:
    assert variables_of({"text": source}) == variables


BODY = "<mjml>\n<mj-body>\n{}\n</mj-body>\n</mjml>"


def html_of(source: str) -> str:
    html, problems = compile_mjml(BODY.format(source))
    assert problems == []
    return html


PRODUCTS = """<mj-section><mj-column>
{% for p in entry.properties.products %}{# one each #}
  <mj-text>{{ p.title }}{% if p.left < 3 and p.kind != "gift" %} &amp; few left{% endif %}</mj-text>
  <mj-button href="https://example.com/?q={{ p["url"] }}&amp;x=1">Look</mj-button>
{% endfor %}
</mj-column></mj-section>
{% if profile.vip %}<mj-section><mj-column><mj-text css-class="{{ profile.tier }}">thanks</mj-text></mj-column></mj-section>{% endif %}"""


def test_loops_conditions_and_quotes_survive_mjml_and_are_escaped_when_sent() -> None:
    products = [
        {"title": "<Tent>", "left": 1, "kind": "x", "url": '"><a>'},
        {"title": "Mug", "left": 9, "kind": "x", "url": "m"},
    ]
    context = {"profile": {"vip": False}, "entry": {"properties": {"products": products}}}
    html = CompiledTemplate("s", "t", html_of(PRODUCTS)).render(context).html
    assert "&lt;Tent&gt; &amp; few left" in html
    assert 'href="https://example.com/?q=&#34;&gt;&lt;a&gt;&amp;x=1"' in html
    assert html.count(">Look</a>") == 2
    assert ">Mug</div>" in html
    assert "thanks" not in html
    assert "one each" not in html
    assert "<table" in html
    assert "mj-" not in html.partition("<body")[2].replace("mj-column-per-100", "").replace(
        "mj-outlook-group-fix", ""
    )


def test_nothing_is_fetched_that_was_not_asked_for() -> None:
    html = html_of(
        '<mj-section><mj-column><mj-text font-family="Roboto">x</mj-text></mj-column></mj-section>'
    )
    assert "fonts.googleapis.com" not in html


@pytest.mark.parametrize(
    ("source", "line", "said"),
    [
        ("\n<mj-bogus>x</mj-bogus>", 4, "there is no element `mj-bogus`"),
        ("{# a\nb #}{% if\nprofile.x %}\n<mj-text2/>{% endif %}", 6, "there is no element `mj-text2`"),
        ("<mj-include path='/etc/passwd' />", 3, "there is no include"),
        ("é日本\n<mj-social>\nx</mj-social>", 4, "is no MJML: unexpected token"),
        ("{{ profile.x }}\n<mj-social>\nx</mj-social>", 4, "is no MJML: unexpected token"),
        ("<mj-section>", 0, "is no MJML"),
        ("<mj-text>a < b</mj-text>", 0, "is no MJML"),
        ("\n<mj-image width='{{ profile.w }}' />", 4, "`{{ profile.w }}` gets lost"),
        (
            "<mj-text {% if profile.x %}color='red'{% endif %}>x</mj-text>",
            3,
            "`{% if profile.x %}` stands among the attributes",
        ),
    ],
)
def test_what_is_no_mjml(source: str, line: int, said: str) -> None:
    html, problems = compile_mjml(BODY.format(source))
    assert html == ""
    assert (problems[0].part, problems[0].line) == ("mjml", line)
    assert problems[0].message.startswith(said)


@pytest.mark.parametrize(
    "source", ["", "hello", "<div>x</div>", "<mjml>", "<mjml><mj-body>\0</mj-body></mjml>", "<?xml?><mjml/>"]
)
def test_what_is_nothing_like_mjml(source: str) -> None:
    html, problems = compile_mjml(source)
    assert html == ""
    assert problems[0].message.startswith("is no MJML")


def test_what_the_library_would_die_of_is_not_given_to_it() -> None:
    _, problems = compile_mjml(BODY.format("<b>" * 30_000 + "</b>" * 30_000))
    assert problems[0].message == f"has 30,002 elements; at most {MAX_ELEMENTS:,} can be taken"
    deepest = MAX_ELEMENTS - 2
    assert html_of("<b>" * deepest + "</b>" * deepest)


def test_html_of_more_than_a_mebibyte_is_refused() -> None:
    text = "<mj-text>{}</mj-text>".format("x" * 240_000)
    assert html_of(text)
    many = "<mj-section background-url='x'><mj-column><mj-text>x</mj-text></mj-column></mj-section>" * 600
    assert compile_mjml(BODY.format(many))[1][0].message == "becomes more than 1 MiB of HTML"


def violations(**parts: object) -> dict[str, str]:
    template = pb.Template(**{"name": "templates/t", "subject": "s", "text": "t", **parts})
    return {violation.field: violation.description for violation in check_template(template)}


@pytest.mark.parametrize(
    ("parts", "field", "said"),
    [
        ({"name": "Templates/T"}, "template.name", "write templates/ID"),
        ({"name": "templates/t/versions/2"}, "template.name", "write templates/ID"),
        ({"subject": ""}, "template.subject", "is required"),
        ({"text": ""}, "template.text", "is required"),
        ({"subject": "a\nb"}, "template.subject", "has more than one line"),
        ({"subject": "x" * 5000}, "template.subject", "has 5,000 bytes"),
        ({"text": "x" * 300_000}, "template.text", "has 300,000 bytes"),
        ({"html": "x" * 300_000}, "template.html", "has 300,000 bytes"),
        ({"mjml": "x" * 300_000}, "template.mjml", "has 300,000 bytes"),
        ({"text": "a\0"}, "template.text", "contains a NUL character"),
        ({"html": "\n{{ nobody }}"}, "template.html", "line 2: there is no variable `nobody`"),
        ({"mjml": "\n{{ nobody }}"}, "template.mjml", "line 2: there is no variable `nobody`"),
        ({"mjml": "hello"}, "template.mjml", "is no MJML"),
        ({"mjml": BODY.format("x"), "html": "y"}, "template.html", "is made from mjml; leave it empty"),
        (
            {
                "mjml": BODY.format(
                    "<mj-section background-url='{% if profile.x %}a'>{% endif %}</mj-section>"
                )
            },
            "template.mjml",
            "its HTML is wrong: ",
        ),
        ({"sample": b"[1]"}, "template.sample", "is no JSON object"),
        ({"sample": b"{"}, "template.sample", "is no JSON object"),
        ({"sample": b'{"a": "' + b"x" * 70_000 + b'"}'}, "template.sample", "has 70,009 bytes"),
    ],
)
def test_what_can_not_be_put(parts: dict[str, object], field: str, said: str) -> None:
    found = violations(**parts)
    assert list(found) == [field]
    assert found[field].startswith(said)


def test_html_is_made_when_a_template_is_put_and_what_was_got_can_be_put_again() -> None:
    template = pb.Template(name="templates/t", subject="s", text="t", mjml=BODY.format("{{ profile.x }}"))
    assert check_template(template) == []
    assert "{{ profile.x }}" in template.html
    assert check_template(template) == []
