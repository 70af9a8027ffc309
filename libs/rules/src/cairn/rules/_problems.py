"""What is wrong with a source, for people: refusals of our own, and the library's error texts put into plain words."""

import re
from collections.abc import Iterator
from typing import Final

from cairn.rules import _behavior
from cairn.rules._checked_ast import Call, Comprehension, Constant, Ident, Many, Node, Select
from cairn.rules._library import EVENT_FIELDS, is_pattern
from cairn.rules.model import Problem, Scope

MAX_LENGTH: Final = 4096
"""Characters that a source may have."""

FUNCTIONS: Final = (
    "has, size, startsWith, endsWith, contains, matches, exists, all, exists_one, filter, map, "
    "int, double, string, timestamp, duration, count, sum, first, last, in_segment"
)
_ERROR: Final = re.compile(r"^(?:[A-Z_]+: )?ERROR: <input>:(-?\d+):(-?\d+): (.*)$", re.MULTILINE)
_NOISE: Final = re.compile(r"(?:More than \d+ |<<nil>> |unknown )(?:parse|parsetree)")
_STATUS: Final = re.compile(r"(?:^[A-Z_]+: )|(?: \[[A-Z_]+\]$)")
_WORDS: Final = {"and": "&&", "or": "||", "not": "!"}
_LONGEST_NAME: Final = 60
_TOO_DEEP: Final = (
    "is nested too deeply; about 30 levels are allowed, and as many operators of one kind in a row"
)


def unreadable(source: str) -> Problem | None:
    """What makes a source not worth parsing: blank, too long, or with characters that no text has."""
    if len(source) > MAX_LENGTH:
        return Problem(1, 1, f"is {len(source):,} characters long; at most {MAX_LENGTH:,} are allowed")
    if not source.strip():
        return Problem(1, 1, 'is empty; write a condition, for example event.name == "purchase"')
    if bad := re.search("[\0\ud800-\udfff]", source):
        return at(source, bad.start(), "has a character that is not text here; remove it")
    return None


def too_deep() -> Problem:
    """The source nests deeper than we go."""
    return Problem(1, 1, _TOO_DEEP)


def misused(source: str, nodes: list[Node]) -> Iterator[Problem]:
    """What the library would accept, or refuse with a riddle, and we refuse in words; `nodes` are a whole tree's."""
    roots = Scope.ENROLLMENT.value
    for offset, message in _behavior.misused(source, nodes):
        yield at(source, offset, message)
    for node in nodes:
        match node:
            case Select(operand=Ident(name="event" | "entry" as root), field=field, test_only=True):
                if field in EVENT_FIELDS:
                    text = (
                        f"has() asks for a key of a map, as in has({root}.properties.total); {root}.{field}"
                    )
                    yield at(source, node.offset, f"{text} is there whenever there is an event")
            case Ident(name=name) if name.startswith("."):
                yield at(source, node.offset - 1, f"a dot before {name[1:]} means nothing; leave it out")
            case Call(function=function) if function.startswith("."):
                start = max(source.rfind(function, 0, node.offset), 0)
                yield at(source, start, f"a dot before {function[1:]} means nothing; leave it out")
            case Many(type="message"):
                yield at(source, node.offset, "there are no messages here; a map has texts as its keys")
            case Comprehension(variable=variable) if variable in roots:
                yield at(
                    source,
                    node.offset,
                    f"{variable} names something else already; name the variable otherwise",
                )
            case Call(function="matches", args=(*_, Constant(value=str(pattern), offset=offset))):
                if not is_pattern(pattern):
                    text = f"{_short(pattern)} is no regular expression as RE2 has them"
                    yield at(source, offset, text)
            case _:
                pass


def result_type(found: str) -> Problem:
    """The expression is sound, but no condition."""
    return Problem(1, 1, f"must be true or false, but is {_article(found)}; compare it with something")


def translate(refusal: str, source: str, scope: Scope, said: bool) -> Iterator[Problem]:
    """The problems in an error text of the library; at least one, unless all is `said` already."""
    lines = source.split("\n")
    found = False
    for line_text, column_text, message in _ERROR.findall(refusal):
        line, column = int(line_text), int(column_text)
        if _NOISE.match(message):
            continue
        found = True
        if said and _about_behavior(message):
            continue
        if line < 1 or line > len(lines):
            yield Problem(1, 1, _plain(message, "", scope))
            continue
        text = lines[line - 1]
        if named := re.match(r"undeclared reference to '\.?(\w+)\.", message):
            # The library points at the last dot of a dotted name; a person looks for its beginning.
            start = text.rfind(named[1], 0, column)
            column = start + 1 if start >= 0 else column
        yield Problem(line, max(column, 1), _plain(message, text[max(column - 1, 0) :], scope))
    if not found:
        yield Problem(1, 1, _plain(_STATUS.sub("", refusal.strip().split("\n")[0]), "", scope))


def _about_behavior(message: str) -> str | None:
    """The behavior function of which a message says that it is called wrongly."""
    match = re.match(r"(?:undeclared reference to|found no matching overload for) '\.?(\w+)'", message)
    return match[1] if match and match[1] in _behavior.FUNCTIONS else None


def _plain(message: str, rest: str, scope: Scope) -> str:
    """One message in words; `rest` is what the source says from the place on."""
    if "recursion" in message:
        return _TOO_DEEP
    if "duplicate key" in message:
        return "has a map with the same key twice"
    if (function := _about_behavior(message)) and (rest.startswith("(") or "overload" in message):
        return _behavior.usage(function)
    if match := re.match(r"undeclared reference to '(.*?)'", message):
        return _undeclared(_short(match[1].lstrip(".")), rest, scope)
    if match := re.match(r"reserved identifier: (\S*)", message):
        return f"{_short(match[1])} is a reserved word; choose another name"
    if match := re.match(r"invalid (int|uint|double) literal", message):
        return f"is no {match[1]}; an integer has 64 bits"
    if match := re.match(r"found no matching overload for '(.*?)' applied to '\((.*)\)'", message):
        return _no_overload(match[1], match[2])
    if message.startswith("Syntax error: "):
        return _syntax(message.removeprefix("Syntax error: "), rest)
    if match := re.match(r"expression of type '(.*?)' cannot be the operand of a select", message):
        return f"{_article(match[1])} has no fields"
    return re.sub(r" \[[A-Z_]+\]$", "", message).strip() or "is no valid expression"


def _undeclared(name: str, rest: str, scope: Scope) -> str:
    root, _, field = name.partition(".")
    if scope is Scope.SEGMENT and root in ("event", "entry"):
        return f"{root} is an event, which segments can't read; they read profile, count, sum, first, last and in_segment"
    if root == "entry" and "entry" not in scope.value:
        return "entry is the event that began the enrollment, which entry criteria can't read; use event or profile"
    if root in scope.value and root != "profile":
        fields = ", ".join(f"{root}.{known}" for known in EVENT_FIELDS)
        return (
            f"{root} has no {field}; there are {fields}"
            if field
            else f"{root} is read by its fields: {fields}"
        )
    if rest.startswith("("):
        return f"there is no function {name}; there are {FUNCTIONS}"
    if name in _behavior.FUNCTIONS:
        return _behavior.usage(name)
    known = ", ".join(
        "profile" if root == "profile" else f"{root}.{EVENT_FIELDS[0]}, ..." for root in scope.value
    )
    return f'there is nothing named {name}; criteria read {known}, and a text stands in quotes: "{name}"'


def _no_overload(function: str, types: str) -> str:
    symbol = function.replace("@in", "in").strip("_").replace("_", " ")
    if function == "_?_:_":
        return f"? : takes a condition and two values of one type, not ({types})"
    if function in ("_&&_", "_||_", "!_"):
        return f"{symbol} takes conditions, not ({types})"
    if function in ("_==_", "_!=_"):
        return f"{symbol} compares values of one type, not ({types})"
    return f"{symbol} can't be applied to ({types})"


def _syntax(message: str, rest: str) -> str:
    if "'<EOF>' expecting" in message:
        return "ends too early; something is missing here"
    if match := re.match(r"missing (.*) at '(.*)", message):
        return f"{match[1]} is missing here"
    if message.startswith("token recognition error at: '= ") or re.match(r"=(?!=)", rest):
        return "= is not an operator; use == to compare"
    if message.startswith("token recognition error at: "):
        bad = rest[:1]
        if bad in ("'", '"'):
            return (
                "a quote is not closed, or holds a backslash that means nothing; write \\\\ for a backslash"
            )
        return f"{bad or 'this'} can't stand here"
    if match := re.match(
        r"(?:mismatched input|extraneous input|no viable alternative at input) '(.*?)'", message
    ):
        if word := _WORDS.get(match[1]):
            return f"{match[1]} is not an operator; use {word}"
        if match[1].startswith(".") and (name := match[1][1:]).isidentifier():
            return f'{name} is a reserved word; write ["{name}"] instead of .{name}'
        return f"{match[1]} can't stand here; an operator or a bracket may be missing before it"
    return f"can't be read here ({message})"


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."


def _article(type_name: str) -> str:
    return f"{'an' if type_name[:1] in 'aeio' else 'a'} {type_name}"


def at(source: str, offset: int, message: str) -> Problem:
    """A problem with its place, given as an offset in characters."""
    before = source[:offset]
    return Problem(before.count("\n") + 1, offset - before.rfind("\n"), message)
