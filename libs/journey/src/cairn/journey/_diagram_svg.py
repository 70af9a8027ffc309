"""Owns how a layout is written as SVG: colors, corners, text."""

from typing import Final
from xml.sax.saxutils import escape

from cairn.journey._diagram_layout import (
    BOX_PAD,
    CODE_SIZE,
    DOT,
    HEAD_SIZE,
    ID_SIZE,
    LANE_HEAD,
    LINE_HEIGHT,
    MARGIN,
    TEXT_SIZE,
    Box,
    Lane,
    Layout,
    Path,
)

_COLORS: Final = {
    "wait": ("#fff8e6", "#d9a400"),
    "activation": ("#e4f0ff", "#2673d9"),
    "decision": ("#f2eaff", "#8056c7"),
    "experiment": ("#e2f6f2", "#0f9680"),
    "jump": ("#ffeee0", "#d9731a"),
    "end": ("#eceff3", "#7a8594"),
    "way": ("#ffffff", "#a9b2be"),
    "entry": ("#e9edff", "#4a5bd0"),
    "milestone": ("#e6f6e8", "#35924a"),
    "goal": ("#d9f2dd", "#217a37"),
    "exit": ("#fdecec", "#cc4444"),
}
"""Fill and border by style."""

_ROUND: Final = frozenset({"way", "entry", "milestone", "goal", "exit", "end"})
_SANS: Final = "'DejaVu Sans', Verdana, 'Segoe UI', Helvetica, Arial, sans-serif"
_MONO: Final = "'DejaVu Sans Mono', Menlo, Consolas, monospace"
_CORNER: Final = 7.0
_STYLE: Final = f"""\
  <style>
    text {{ font-family: {_SANS}; fill: #1d2733; }}
    .head {{ font-size: {HEAD_SIZE}px; font-weight: 600; }}
    .text {{ font-size: {TEXT_SIZE}px; }}
    .code {{ font-size: {CODE_SIZE}px; font-family: {_MONO}; fill: #37475a; }}
    .id {{ font-size: {ID_SIZE}px; fill: #7a8594; }}
    .title {{ font-size: 20px; font-weight: 700; }}
    .stage {{ font-size: 15px; font-weight: 700; }}
    .path {{ fill: none; stroke: #66717f; stroke-width: 1.5; }}
    .dotted {{ stroke-dasharray: 4 4; stroke: #35924a; }}
  </style>"""
_ARROW: Final = """\
  <defs>
    <marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
      <path d="M0 0 L8 4 L0 8 Z" fill="#66717f"/>
    </marker>
  </defs>"""


def write(layout: Layout) -> str:
    """The layout as an SVG document."""
    width, height = _number(layout.width), _number(layout.height)
    title = escape(_clean(layout.title))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        f' role="img" aria-label="Journey {title}">',
        f"  <title>Journey {title}</title>",
        _STYLE,
        _ARROW,
        '  <rect width="100%" height="100%" fill="#ffffff"/>',
        f'  <text class="title" x="{MARGIN}" y="{MARGIN + 16}">{title}</text>',
    ]
    lines += [_lane(lane) for lane in layout.lanes]
    lines += [_path(path) for path in layout.paths]
    lines += [
        f'  <circle cx="{_number(x)}" cy="{_number(y)}" r="{DOT}" fill="#66717f"/>' for x, y in layout.dots
    ]
    lines += [_box(box) for box in layout.boxes]
    return "\n".join([*lines, "</svg>", ""])


def _lane(lane: Lane) -> str:
    x, y = _number(lane.x), _number(lane.y)
    size = f'width="{_number(lane.width)}" height="{_number(lane.height)}"'
    border = lane.x + LANE_HEAD
    name = escape(_clean(f"{lane.number} {lane.title}"))
    return "\n".join(
        [
            f'  <rect x="{x}" y="{y}" {size} rx="10" fill="#f6f8fa" stroke="#d5dbe3"/>',
            f'  <line x1="{_number(border)}" y1="{y}" x2="{_number(border)}" y2="{_number(lane.y + lane.height)}" stroke="#d5dbe3"/>',
            f'  <text class="stage" x="{_number(lane.x + BOX_PAD)}" y="{_number(lane.y + 36)}"{_fit(name)}>{name}</text>',
        ]
    )


def _fit(name: str) -> str:
    """A stage's name has up to 63 letters; a long one is drawn narrower."""
    room = LANE_HEAD - 2 * BOX_PAD
    return f' textLength="{room}" lengthAdjust="spacingAndGlyphs"' if len(name) * 10.5 > room else ""


def _path(path: Path) -> str:
    dotted = " dotted" if path.dotted else ""
    arrow = ' marker-end="url(#arrow)"' if path.arrow else ""
    return f'  <path class="path{dotted}" d="{_rounded(path.points)}"{arrow}/>'


def _rounded(points: tuple[tuple[float, float], ...]) -> str:
    """The points as a path whose corners are round."""
    parts = [f"M{_number(points[0][0])} {_number(points[0][1])}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        radius = min(_CORNER, _length(before, corner) / 2, _length(corner, after) / 2)
        x1, y1 = _towards(corner, before, radius)
        x2, y2 = _towards(corner, after, radius)
        parts.append(
            f"L{_number(x1)} {_number(y1)} Q{_number(corner[0])} {_number(corner[1])} {_number(x2)} {_number(y2)}"
        )
    parts.append(f"L{_number(points[-1][0])} {_number(points[-1][1])}")
    return " ".join(parts)


def _box(box: Box) -> str:
    fill, border = _COLORS[box.style]
    corner = min(box.height / 2, 16) if box.style in _ROUND else 6
    lines = [
        "  <g>",
        *([f"    <title>{escape(_clean(box.full))}</title>"] if box.full else []),
        f'    <rect x="{_number(box.x)}" y="{_number(box.y)}" width="{_number(box.width)}" height="{_number(box.height)}"'
        f' rx="{_number(corner)}" fill="{fill}" stroke="{border}" stroke-width="1.5"/>',
    ]
    y = box.y + BOX_PAD + 9
    for line in box.lines:
        said = escape(_clean(line.text))
        lines.append(
            f'    <text class="{line.kind}" x="{_number(box.x + BOX_PAD)}" y="{_number(y)}" xml:space="preserve">{said}</text>'
        )
        y += LINE_HEIGHT
    return "\n".join([*lines, "  </g>"])


def _length(a: tuple[float, float], b: tuple[float, float]) -> float:
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def _towards(begin: tuple[float, float], end: tuple[float, float], by: float) -> tuple[float, float]:
    """A point so far from one to another, along an axis."""
    length = _length(begin, end) or 1
    return begin[0] + (end[0] - begin[0]) * by / length, begin[1] + (end[1] - begin[1]) * by / length


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _clean(text: str) -> str:
    """Text without the characters that XML has no way to write."""
    return "".join(
        each
        if each in "\t\n" or (each >= " " and not "\ud800" <= each <= "\udfff" and each not in "\ufffe\uffff")
        else "\N{REPLACEMENT CHARACTER}"
        for each in text
    )
