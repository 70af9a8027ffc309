"""Owns the way from MJML to HTML, by the library `mjml`: nothing is included, nothing is fetched. Pure.

What Jinja2 will replace goes through as marks, so that MJML takes no offense at its quotes and angle brackets.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass, field

import jinja2
from mjml import mjml2html

from cairn.activation.template_check import Problem
from cairn.activation.templates import HTML, MAX_OUTPUT_BYTES

MAX_ELEMENTS = 2_000
"""The most elements: the library works through them by recursion, and dies of some ten thousand in each other."""

KNOWN_TAGS = frozenset(
    """mjml mj-head mj-body mj-accordion mj-accordion-element mj-accordion-text mj-accordion-title mj-all mj-attributes mj-breakpoint
    mj-button mj-carousel mj-carousel-image mj-class mj-column mj-divider mj-font mj-group mj-hero mj-image mj-navbar mj-navbar-link
    mj-preview mj-raw mj-section mj-social mj-social-element mj-spacer mj-style mj-table mj-text mj-title mj-wrapper""".split()  # noqa: SIM905 - no line for each
)
"""The elements of MJML that the library knows; what else begins with `mj-` is a mistake. Others are HTML, and stay as they are."""

_PART = "mjml"
_MOST_PROBLEMS = 20
_QUOTED = re.compile(r"""\"[^\"]{0,4000}\"|'[^']{0,4000}'""")
_START_TAG = re.compile(rf"""<[A-Za-z](?:[^<>"']|{_QUOTED.pattern})*>""")
_ELEMENT = re.compile(r"<([A-Za-z][^\s/>]*)")
_POSITION = re.compile(r" in root template(?: at position (\d+):\d+)?")
_BEGINS = ("block_begin", "variable_begin", "raw_begin", "comment_begin")
_ENDS = ("block_end", "variable_end", "raw_end", "comment_end")


@dataclass(slots=True)
class _Marked:
    """MJML with marks for what is Jinja2's, each with its line and its tag; `lines` are those of what begins at `offsets`."""

    prefix: str
    text: str = ""
    tags: dict[str, tuple[int, str]] = field(default_factory=dict)
    offsets: list[int] = field(default_factory=lambda: [0])
    lines: list[int] = field(default_factory=lambda: [1])

    def line_at(self, offset: int) -> int:
        """The line in the source of what stands at an offset of `text`."""
        place = bisect_right(self.offsets, offset) - 1
        return self.lines[place] + self.text.count("\n", self.offsets[place], offset)


def compile_mjml(source: str) -> tuple[str, list[Problem]]:
    """The HTML, still with its Jinja2, or what is wrong."""
    try:
        marked = _mark(source)
    except jinja2.TemplateSyntaxError:
        return "", []  # told by whoever checks the Jinja2 of it
    problems = _unknown_elements(marked) or _misplaced_tags(marked)
    if problems:
        return "", problems
    try:
        # Without fonts of its own: by default a known font's name brings an address that the reader's program would fetch.
        html = mjml2html(marked.text, fonts={})
    except ValueError as error:
        return "", [_problem(marked, str(error))]
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of the library, which is no Exception
            raise
        return "", [Problem(_PART, 0, "can't be read")]
    marks = re.compile(f"{marked.prefix}[0-9]+z")
    kept = set(marks.findall(html))
    lost = [
        Problem(_PART, line, f"`{tag[:60]}` gets lost: MJML takes no variable there")
        for mark, (line, tag) in marked.tags.items()
        if mark not in kept
    ]
    if lost:
        return "", lost[:_MOST_PROBLEMS]
    html = marks.sub(lambda found: marked.tags[found[0]][1], html)
    if len(html.encode()) > MAX_OUTPUT_BYTES:
        return "", [Problem(_PART, 0, "becomes more than 1 MiB of HTML")]
    return html, []


def _mark(source: str) -> _Marked:
    """Replaces each tag of Jinja2 by a mark, each comment by nothing. TemplateSyntaxError."""
    prefix = "jinja"
    while prefix in source:
        prefix += "x"
    marked = _Marked(prefix)
    pieces: list[str] = []
    tag: list[str] | None = None
    size, begin = 0, 1
    for line, kind, value in HTML.lex(source):
        if kind in _BEGINS:
            tag, begin = [], line
        if tag is not None:
            tag.append(value)
        else:
            marked.offsets.append(size)
            marked.lines.append(line)
        if kind in _ENDS and tag is not None:
            mark = ""
            if kind != "comment_end":
                mark = f"{prefix}{len(marked.tags)}z"
                marked.tags[mark] = (begin, "".join(tag))
            value, tag = mark, None
        if tag is None:
            pieces.append(value)
            size += len(value)
    marked.text = "".join(pieces)
    return marked


def _unknown_elements(marked: _Marked) -> list[Problem]:
    problems, count = [], 0
    for found in _ELEMENT.finditer(marked.text):
        count += 1
        name = found[1]
        if name.startswith("mj-") and name not in KNOWN_TAGS:
            said = "there is no include" if name == "mj-include" else f"there is no element `{name[:50]}`"
            problems.append(Problem(_PART, marked.line_at(found.start()), said))
    if count > MAX_ELEMENTS:
        return [Problem(_PART, 0, f"has {count:,} elements; at most {MAX_ELEMENTS:,} can be taken")]
    return problems[:_MOST_PROBLEMS]


def _misplaced_tags(marked: _Marked) -> list[Problem]:
    said = "stands among the attributes of an element; it can only be within their quotes"
    problems = []
    for element in _START_TAG.finditer(marked.text):
        found = re.search(f"{marked.prefix}[0-9]+z", _QUOTED.sub("", element[0]))
        if found:
            line, tag = marked.tags[found[0]]
            problems.append(Problem(_PART, line, f"`{tag[:60]}` {said}"))
    return problems[:_MOST_PROBLEMS]


def _problem(marked: _Marked, text: str) -> Problem:
    found = _POSITION.search(text)
    said = _POSITION.sub("", text)
    if found is None or found[1] is None:
        return Problem(_PART, 0, f"is no MJML: {said}")
    # The library counts bytes.
    offset = len(marked.text.encode()[: int(found[1])].decode("utf-8", "ignore"))
    return Problem(_PART, marked.line_at(offset), f"is no MJML: {said}")
