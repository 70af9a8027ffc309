"""Criteria as SQL over a profile's row: owns what a caller says and gets, and that segments are written into what names them.

Refuses to know tables.
"""

from collections.abc import Iterator, Mapping

from cairn.rules import _problems, _sql_text
from cairn.rules import _sql_values as sql
from cairn.rules._sql_translate import Translated, Translator
from cairn.rules._sql_values import SqlNames
from cairn.rules.model import Criteria, Problem


class SqlUnsupported(ValueError):  # noqa: N818 - the name of an outcome, not of a mistake
    """A criteria that no SQL agrees with for sure; holds each part that is in the way, at least one, in order of place."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


def to_sql(criteria: Criteria, segments: Mapping[str, Criteria], names: SqlNames) -> str:
    """The SQL condition that is true, false or NULL where `criteria.evaluate` is true, false or fails on the row's profile.

    `segments` are those that it names, and that they name, by id; nobody is in one that is not there. Raises SqlUnsupported with
    all that is in the way. Only constants of the criteria get into the text, each quoted. The row's JSON has to be as we write it.
    """
    known: dict[str, Translated] = {}
    for name in _inner_first(criteria, segments):
        known[name] = _translated(segments[name], segments, known, names)
    found = _translated(criteria, segments, known, names)
    if isinstance(found, tuple):
        raise SqlUnsupported(found)
    return found


def text_to_sql(criteria: Criteria, segments: Mapping[str, Criteria], attributes: str, behavior: str) -> str:
    """An SQL condition over the JSON texts of two columns that is true wherever the criteria is, and perhaps elsewhere.

    It looks for keys and constants in the texts, in a tenth of the time that reading the JSON takes: rows for which it is not true need no
    other look. `true` where nothing can be told. The texts have to be as msgspec writes them; it knows a text with a NUL as any other.
    """
    known: dict[str, str] = {}
    for name in _inner_first(criteria, segments):
        known[name] = _sql_text.needed(segments[name].tree, known, attributes, behavior)
    return _sql_text.needed(criteria.tree, known, attributes, behavior)


def json_expression(column: str) -> str:
    """SQL: a column's JSON text as jsonb, an empty object where there is none, and NULL where Postgres can't hold it.

    It can't hold a NUL in a text. Whether a criteria holds for such a row is not for SQL to say: take the row along, and let
    `evaluate` decide.
    """
    name = sql.atom(column)
    return (
        f"(CASE WHEN {name} IS NULL OR {name} = '' THEN '{{}}'::jsonb "
        f"WHEN strpos({name}, E'\\\\u0000') = 0 THEN {name}::jsonb END)"
    )


def _inner_first(criteria: Criteria, segments: Mapping[str, Criteria]) -> Iterator[str]:
    """The segments that a criteria uses, each once, after those that it names itself."""
    seen: set[str] = set()
    pending = [(name, False) for name in sorted(criteria.segments)]
    while pending:
        name, is_done = pending.pop()
        if is_done:
            yield name
        elif name in segments and name not in seen:
            seen.add(name)
            pending.append((name, True))
            pending += [(inner, False) for inner in sorted(segments[name].segments)]


def _translated(
    criteria: Criteria,
    segments: Mapping[str, Criteria],
    known: Mapping[str, Translated],
    names: SqlNames,
) -> Translated:
    """A criteria as SQL, or what is in the way; `known` are the segments that it names."""
    translator = Translator(segments, known, names, criteria.tree)
    found = translator.condition(criteria.tree)
    problems = {_problems.at(criteria.source, offset, message) for offset, message in translator.refused}
    return tuple(sorted(problems, key=lambda each: (each.line, each.column, each.message))) or found
