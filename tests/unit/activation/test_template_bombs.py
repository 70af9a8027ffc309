"""Templates that would take all time or all memory: each ends soon, with a reason, and with the memory that any template may take.

They run in a process of their own with little memory and little time, so that one that goes off ends a process and not the tests.
"""

import json
import resource
import subprocess
import sys

import pytest

MANY = "{% set r = range(20000)|list %}"
GROW = "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}BODY{% endfor %}"
STEPS = "it takes more than 100,000 rounds of loops and calls"
LONG = "a text is too long"
FORMAT = "a format is too wide"
TUPLES = "{% set ns = namespace(x=(1,)) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}"

BOMBS = {
    "loops in loops": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        STEPS,
    ),
    "a macro that calls itself twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
        STEPS,
    ),
    "a macro that calls itself for ever": (
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "RecursionError",
    ),
    "a loop that calls itself": (
        "{% for a in [1] recursive %}{{ loop(range(60000)) }}{{ loop(range(60000)) }}{% endfor %}",
        STEPS,
    ),
    "a block that shows itself": ("{% block b %}{{ self.b() }}{% endblock %}", "RecursionError"),
    "a loop with a long body": (
        "{% set e = '' %}{% for a in range(90000) %}" + "{{ e }}" * 2000 + "{% endfor %}",
        STEPS,
    ),
    "a macro with a long body": (
        "{% macro m(e) %}"
        + "{{ e }}" * 9000
        + "{% endmacro %}{% for a in range(40000) %}{{ m('') }}{% endfor %}",
        STEPS,
    ),
    "a call block with a long body": (
        "{% macro m() %}{% for a in range(40000) %}{{ caller() }}{% endfor %}{% endmacro %}{% set e = '' %}"
        "{% call m() %}" + "{{ e }}" * 2000 + "{% endcall %}",
        STEPS,
    ),
    "a block with a long body": (
        "{% set e = '' %}{% block b %}" + "{% if e %}{% endif %}" * 2000 + "{% endblock %}"
        "{% for a in range(40000) %}{{ self.b() }}{% endfor %}",
        STEPS,
    ),
    "a loop that calls itself with a long body": (
        "{% set e = '' %}{% for a in [[]] recursive %}"
        + "{{ e }}" * 9000
        + "{{ loop([[]] * 9000) if loop.depth < 3 }}{% endfor %}",
        STEPS,
    ),
    "a condition of a loop": (
        "{% for a in range(40000) %}{% for b in range(40000) if b < 0 %}{% endfor %}{% endfor %}",
        STEPS,
    ),
    "steps that are given back": (
        "{% set y = (0 - 10 ** 9)|cairn_paid %}{% for a in range(99999) %}{% for b in range(999) %}{% endfor %}{% endfor %}",
        "nothing is given back",
    ),
    "steps that are no number": (
        "{% set y = ('nan'|float)|cairn_paid %}{% for a in range(99999) %}{% for b in range(999) %}{% endfor %}{% endfor %}",
        "nothing is given back",
    ),
    "a huge range": ("{% for a in range(10 ** 9) %}{% endfor %}", "OverflowError"),
    "a repeated text": ("{{ 'x' * 100000000 }}", "a repetition is too long"),
    "a repeated list": ("{{ [0] * 100000000 }}", "a repetition is too long"),
    "a power": ("{{ 9 ** 99999 }}", "a power is too large"),
    "a number that squares itself": (
        GROW.replace("BODY", "{% set ns.n = (ns.n or 9) * (ns.n or 9) %}").replace("x=", "n=0, x="),
        "a number is too large",
    ),
    "much set again and again": (
        "{% set t = 'x' * 90000 %}{% for a in range(90000) %}{% set y %}{{ t }}{% endset %}{% endfor %}",
        STEPS,
    ),
    "characters one by one": (
        "{% set t = 'a ' * 20000 %}{% for a in range(100) %}{% set y = t|unique|list %}{% endfor %}",
        STEPS,
    ),
    "links in much": (
        "{% set t = 'www.a.de ' * 9000 %}{% for a in range(8) %}{% set y = t|urlize %}{% endfor %}",
        STEPS,
    ),
    "much output": ("{% for a in range(90000) %}{{ 'x' * 90000 }}{% endfor %}", "would be larger than 1 MiB"),
    "a text that doubles by ~": (GROW.replace("BODY", "{% set ns.x = ns.x ~ ns.x %}"), LONG),
    "a text that doubles by +": (GROW.replace("BODY", "{% set ns.x = ns.x + ns.x %}"), LONG),
    "a text that doubles by join": (GROW.replace("BODY", "{% set ns.x = [ns.x, ns.x]|join %}"), LONG),
    "a text that doubles by format": (
        GROW.replace("BODY", "{% set ns.x = '%s%s'|format(ns.x, ns.x) %}"),
        LONG,
    ),
    "a text that doubles by str.format": (
        GROW.replace("BODY", "{% set ns.x = '{0}{0}'.format(ns.x) %}"),
        LONG,
    ),
    "a text that doubles by replace": (
        GROW.replace("BODY", "{% set ns.x = ns.x.replace('a', 'aa') %}"),
        LONG,
    ),
    "a text that doubles by the filter replace": (
        GROW.replace("BODY", "{% set ns.x = ns.x|replace('a', 'aa') %}"),
        LONG,
    ),
    "a text that doubles by a set block": (
        GROW.replace("BODY", "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"),
        LONG,
    ),
    "a text that doubles by a macro": (
        "{% macro two(t) %}{{ t }}{{ t }}{% endmacro %}" + GROW.replace("BODY", "{% set ns.x = two(ns.x) %}"),
        LONG,
    ),
    "a text that is named again and again by %": (
        "{{ ('%(a)s' * 10000) % {'a': 'x' * 100000} }}",
        LONG,
    ),
    "a text that is named again and again by %, with parentheses": (
        "{{ ('%((a))s' * 10000) % {'(a)': 'x' * 100000} }}",
        LONG,
    ),
    "a text that is named again and again by the filter format": (
        "{{ ('%(a)s' * 10000)|format(a='x' * 100000) }}",
        LONG,
    ),
    "a text that is named again and again by str.format": (
        "{{ ('{0}' * 30000).format('x' * 100000) }}",
        LONG,
    ),
    "a part of something that is named again and again": (
        "{{ ('{0[a][0]}' * 10000).format({'a': ['x' * 100000]}) }}",
        LONG,
    ),
    "a text that is named again and again by str.format_map": (
        "{{ ('{a}' * 30000).format_map({'a': 'x' * 100000}) }}",
        LONG,
    ),
    "a list that doubles": (
        GROW.replace("x='aaaaaaaa'", "x=[1]").replace("BODY", "{% set ns.x = ns.x + ns.x %}"),
        STEPS,
    ),
    "a list of itself, shown": (
        GROW.replace("x='aaaaaaaa'", "x=[1]").replace("BODY", "{% set ns.x = [ns.x, ns.x] %}") + "{{ ns.x }}",
        STEPS,
    ),
    "a list of itself, as text": (
        GROW.replace("x='aaaaaaaa'", "x=[1]").replace("BODY", "{% set ns.x = [ns.x, ns.x] %}")
        + "{{ ns.x|string }}",
        STEPS,
    ),
    "a list of itself, compared": (
        "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}"
        "{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
        STEPS,
    ),
    "a namespace of itself, joined": (
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ 'a' ~ ns }}",
        STEPS,
    ),
    "a tuple of itself, as a key": (TUPLES + "{% set d = {ns.x: 1} %}", STEPS),
    "a tuple of itself, looked up": (TUPLES + "{% set d = {}[ns.x] %}", STEPS),
    "a tuple of itself, searched for": (TUPLES + "{{ ns.x in {} }}", STEPS),
    "a way back from keys": ("{{ {'a': 1}.keys().mapping|string }}", "the template needs `mapping`"),
    "keys without keys": (
        "{% set k = dict(range(6000)|batch(2)).keys() %}{% for a in range(60000) %}{% set y = k - k - k %}{% endfor %}",
        STEPS,
    ),
    "sums of much": (MANY + "{% for a in r %}{{ r|sum }}{% endfor %}", STEPS),
    "a search in much": (MANY + "{% for a in r %}{% if -1 in r %}{% endif %}{% endfor %}", STEPS),
    "a test for much": (MANY + "{% for a in r %}{% if -1 is in r %}{% endif %}{% endfor %}", STEPS),
    "copies of much": (MANY + "{% for a in r %}{% set y = r[1:] %}{% endfor %}", STEPS),
    "mapped ranges": (
        "{% for a in range(60000) %}{% if range(60000)|map('string')|first %}{% endif %}{% endfor %}",
        STEPS,
    ),
    "sorted again and again": (MANY + "{% for a in r %}{% set y = r|sort %}{% endfor %}", STEPS),
    "split to pieces": (
        "{% set t = 'a ' * 40000 %}{% for a in range(60000) %}{% set y = t.split() %}{% endfor %}",
        STEPS,
    ),
    "a wide %": ("{{ '%1000000000d' % 5 }}", FORMAT),
    "a wide % by an argument": ("{{ '%*d' % (1000000000, 5) }}", FORMAT),
    "a wide filter format": ("{{ '%1000000000d'|format(5) }}", FORMAT),
    "a wide str.format": ("{{ '{:1000000000}'.format(5) }}", FORMAT),
    "a wide str.format by an argument": ("{{ '{:{w}}'.format(5, w=1000000000) }}", FORMAT),
    "a precise number": ("{{ '%.1000000000f' % 5 }}", FORMAT),
    "centered": ("{{ 'x'|center(1000000000) }}", "a width is more than 1,000"),
    "indented": ("{{ 'x'|indent(1000000000, true) }}", "a width is more than 1,000"),
    "many lines indented": ("{% set t = '\n' * 90000 %}{{ t|indent(900) }}", LONG),
    "indented by a text": (
        "{% set t = '\n' * 90000 %}{{ t|indent('x' * 90000) }}",
        "what is put in between is longer than",
    ),
    "wrapped with a text": ("{{ ('x' * 90000)|wordwrap(1, wrapstring='y' * 100) }}", LONG),
    "batched": ("{{ [1]|batch(1000000000, 'x')|list }}", "a width is more than 1,000"),
    "sliced": ("{{ [1]|slice(1000000000)|list }}", "a width is more than 1,000"),
    "rounded": ("{{ 1.5|round(1000000000, 'ceil') }}", "a width is more than 1,000"),
    "indented JSON": ("{{ [1]|tojson(1000000000) }}", "`tojson` takes no argument here"),
    "joined with much": ("{{ range(40000)|join('x' * 40000) }}", LONG),
    "joined with much by a method": ("{{ ('x' * 30000).join(range(30000)|map('string')) }}", LONG),
    "ljust": ("{{ 'x'.ljust(1000000000) }}", "the template needs `ljust`"),
    "zfill": ("{{ 'x'.zfill(1000000000) }}", "the template needs `zfill`"),
    "expandtabs": ("{{ '\t'.expandtabs(1000000000) }}", "the template needs `expandtabs`"),
    "to_bytes": ("{{ (5).to_bytes(1000000000, 'big') }}", "the template needs `to_bytes`"),
    "a way out by attributes": ("{{ ''.__class__.__mro__ }}", "the template needs `__class__`"),
    "a way out by a format": ("{{ '{0.__class__}'.format(5) }}", "the template needs `__class__`"),
    "a way out by a function": ("{{ range.__globals__ }}", "the template needs `__globals__`"),
    "a change of the context": ("{{ profile.update({'a': 1}) }}", "the template needs `update`"),
    "words by the ten thousand": ("{{ lipsum(n=10000) }}", "the template needs `lipsum`"),
}

CHILD = """
import json, sys
from cairn.activation.templates import CompiledTemplate, TemplateError
from cairn.activation.template_check import check_parts
found = {}
for name, source in json.load(sys.stdin).items():
    check_parts({"text": source, "html": source})
    try:
        found[name] = repr(CompiledTemplate("s", source, "").render({"profile": {}})) [:200]
    except TemplateError as error:
        found[name] = error.reason
    try:
        CompiledTemplate("s", "t", source).render({"profile": {}})
        found[name] = "as HTML it was rendered"
    except TemplateError as error:
        pass
json.dump(found, sys.stdout)
"""


def _limits() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (120, 120))


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    bombs = json.dumps({name: source for name, (source, _) in BOMBS.items()})
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=bombs,
        capture_output=True,
        text=True,
        preexec_fn=_limits,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", BOMBS)
def test_it_ends_with_a_reason(said: dict[str, str], name: str) -> None:
    assert BOMBS[name][1] in said[name]
