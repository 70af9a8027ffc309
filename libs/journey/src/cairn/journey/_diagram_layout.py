"""Owns the layout of a diagram: what stands where, in pixels. Stages are lanes from top to bottom, steps run from left to right.

A step that holds steps fans out into its ways, one under the other, which meet again behind the longest.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cairn.journey import _diagram_words as words
from cairn.journey._diagram_words import Words
from cairn.journey.model import End, Journey, Jump, Stage, Step, ways

MARGIN: Final = 24
LANE_HEAD: Final = 196
LANE_PAD: Final = 22
BOX_WIDTH: Final = 176
CHIP_WIDTH: Final = 236
GAP: Final = 36
WAY_GAP: Final = 16
MERGE: Final = 28
SNAP: Final = 24
DOT: Final = 6
STUB: Final = 16
BOX_PAD: Final = 10
HEAD_SIZE: Final = 13
TEXT_SIZE: Final = 11.5
CODE_SIZE: Final = 11
ID_SIZE: Final = 9.5
LINE_HEIGHT: Final = 15
MOST_LINES: Final = 7
_CODE_EM: Final = 0.61
_TEXT_EM: Final = 0.6
_HEAD_EM: Final = 0.66
_RADIUS: Final = 8


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text in a box: `kind` is head, text, code or id."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Box:
    """A box with its lines; `full` is what it says in full where a line was cut."""

    x: float
    y: float
    width: float
    height: float
    style: str
    lines: tuple[Line, ...]
    full: str = ""


@dataclass(frozen=True, slots=True)
class Path:
    """A line through points, with right angles; `arrow` where it ends in one."""

    points: tuple[tuple[float, float], ...]
    arrow: bool
    dotted: bool = False


@dataclass(frozen=True, slots=True)
class Lane:
    """A stage's band."""

    x: float
    y: float
    width: float
    height: float
    title: str
    number: int


@dataclass(slots=True)
class Layout:
    """Everything that is to be drawn, back to front."""

    width: float = 0
    height: float = 0
    title: str = ""
    lanes: list[Lane] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    dots: list[tuple[float, float]] = field(default_factory=list)


def lay_out(journey: Journey) -> Layout:
    """The layout of a journey."""
    layout = Layout(title=journey.journey_id)
    flows = [_flow(journey, index) for index in range(len(journey.stages))]
    inner = max(flow.width for flow in flows)
    width = LANE_HEAD + inner + 2 * LANE_PAD + STUB + DOT
    chips = [_Block(words.of_goal(journey), CHIP_WIDTH)] if journey.goal else []
    chips += [_Block(words.of_exit(journey, exit), CHIP_WIDTH) for exit in journey.exits]
    width = max(width, 720)
    y = MARGIN + 34.0
    y = _place_chips(layout, chips, MARGIN, y, width) + 14 if chips else y
    for index, (stage, flow) in enumerate(zip(journey.stages, flows, strict=True)):
        y = _place_lane(layout, journey, index, stage, flow, y, width)
    layout.width = width + 2 * MARGIN
    layout.height = y + MARGIN - 12
    return layout


class _Block:
    """A box that has a size and no place yet."""

    def __init__(self, said: Words, width: float = BOX_WIDTH, step_id: str = "") -> None:
        self.style = said.style
        self.width = width
        self.lines, self.full = _lines(said, width - 2 * BOX_PAD, step_id)
        self.height = len(self.lines) * LINE_HEIGHT + 2 * BOX_PAD - 4

    def place(self, layout: Layout, x: float, y: float) -> None:
        layout.boxes.append(Box(x, y, self.width, self.height, self.style, self.lines, self.full))


class _Part:
    """A box in a flow and, if it fans out, its ways. `up` and `down` reach from the axis on which its line enters and leaves."""

    def __init__(self, block: _Block, ways: Sequence["_Flow"] = (), *, goes_on: bool = True) -> None:
        self.block = block
        self.ways = ways
        self.goes_on: bool = goes_on and (not ways or any(way.goes_on for way in ways))
        fan = sum(way.height for way in ways) + WAY_GAP * max(0, len(ways) - 1)
        self.top: float = _anchor(ways, fan)
        self.up: float = max(block.height / 2, self.top)
        self.down: float = max(block.height / 2, fan - self.top)
        self.width: float = block.width
        if ways:
            self.width += GAP + max(way.width for way in ways) + (MERGE if self.goes_on else 0)

    def place(self, layout: Layout, x: float, axis: float) -> float:
        """Draws it, and returns where its line leaves."""
        self.block.place(layout, x, axis - self.block.height / 2)
        right = x + self.block.width
        if not self.ways:
            return right
        end = x + self.width
        turn, y = right + GAP / 2, axis - self.top
        for way in self.ways:
            way_axis = y + way.up
            begin = right + GAP
            layout.paths.append(
                _path((right, axis), (turn, axis), (turn, way_axis), (begin, way_axis), arrow=True)
            )
            leaves = way.place(layout, begin, way_axis)
            if way.goes_on:
                layout.paths.append(_path((leaves, way_axis), (end, way_axis), (end, axis)))
            y += way.height + WAY_GAP
        return end


class _Flow:
    """Parts one behind the other on one axis."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        self.parts = parts
        self.up = max(part.up for part in parts)
        self.down = max(part.down for part in parts)
        self.height: float = self.up + self.down
        self.width: float = sum(part.width for part in parts) + GAP * (len(parts) - 1)
        self.goes_on: bool = parts[-1].goes_on

    def place(self, layout: Layout, x: float, axis: float) -> float:
        """Draws it, and returns where its line leaves."""
        leaves = x
        for number, part in enumerate(self.parts):
            if number:
                layout.paths.append(_path((leaves, axis), (leaves + GAP, axis), arrow=True))
                leaves += GAP
            leaves = part.place(layout, leaves, axis)
        return leaves


def _anchor(ways: Sequence[_Flow], fan: float) -> float:
    """How far the axis of a step lies below the top of its ways: in their middle, or on one of them if that is close by."""
    top, axes = 0.0, []
    for way in ways:
        axes.append(top + way.up)
        top += way.height + WAY_GAP
    nearest = min(axes, key=lambda each: abs(each - fan / 2), default=0.0)
    return nearest if abs(nearest - fan / 2) < SNAP else fan / 2


def _flow(journey: Journey, index: int) -> _Flow:
    """What opens a stage, and its steps."""
    door = words.of_milestone(journey, index - 1) if index else words.of_entry(journey)
    return _Flow([_Part(_Block(door, CHIP_WIDTH)), *_parts(journey.stages[index].steps)])


def _parts(steps: Iterable[Step]) -> list[_Part]:
    parts = []
    for step in steps:
        block = _Block(words.of_step(step.kind), step_id=step.step_id)
        labels = words.of_ways(step.kind)
        flows = [
            _Flow([_Part(_Block(label, CHIP_WIDTH if label.code else BOX_WIDTH)), *_parts(inner)])
            for label, (_, inner) in zip(labels, ways(step.kind), strict=True)
        ]
        parts.append(_Part(block, flows, goes_on=not isinstance(step.kind, Jump | End)))
    return parts


def _place_lane(
    layout: Layout, journey: Journey, index: int, stage: Stage, flow: _Flow, y: float, width: float
) -> float:
    """Draws a stage at a height, and returns where the next one begins."""
    exits = [_Block(words.of_exit(journey, exit), LANE_HEAD - 2 * BOX_PAD) for exit in stage.exits]
    head = 40 + sum(exit.height + 8 for exit in exits)
    height = max(flow.height, head) + 2 * LANE_PAD
    layout.lanes.append(Lane(MARGIN, y, width, height, stage.name, index + 1))
    place = y + LANE_PAD + 32
    for exit in exits:
        exit.place(layout, MARGIN + BOX_PAD, place)
        place += exit.height + 8
    x = MARGIN + LANE_HEAD + LANE_PAD
    axis = y + LANE_PAD + flow.up + (height - 2 * LANE_PAD - flow.height) / 2
    if index:
        # From the lane above to the milestone that opens this one.
        top = axis - flow.parts[0].block.height / 2
        middle = x + CHIP_WIDTH / 2
        layout.paths.append(Path(((middle, y - 12), (middle, top)), arrow=True, dotted=True))
    leaves = flow.place(layout, x, axis)
    if flow.goes_on:
        layout.paths.append(_path((leaves, axis), (leaves + STUB, axis)))
        layout.dots.append((leaves + STUB + DOT, axis))
    return y + height + 12


def _place_chips(layout: Layout, chips: Sequence[_Block], left: float, y: float, width: float) -> float:
    """Draws the goal and the exits of the journey in rows, and returns where they end."""
    x, row = left, 0.0
    for chip in chips:
        if x > left and x + chip.width > left + width:
            x, y, row = left, y + row + 10, 0.0
        chip.place(layout, x, y)
        x += chip.width + 12
        row = max(row, chip.height)
    return y + row


def _path(*points: tuple[float, float], arrow: bool = False) -> Path:
    kept = [points[0]]
    for point in points[1:]:
        if point != kept[-1]:
            kept.append(point)
    return Path(tuple(kept), arrow)


# Text


def _lines(said: Words, room: float, step_id: str) -> tuple[tuple[Line, ...], str]:
    lines: list[Line] = []
    cut = False
    for kind, text, em, size in (
        ("id", step_id, _TEXT_EM, ID_SIZE),
        ("head", said.head, _HEAD_EM, HEAD_SIZE),
        ("code", said.code, _CODE_EM, CODE_SIZE),
        ("text", said.text, _TEXT_EM, TEXT_SIZE),
    ):
        wrapped = wrap(text, int(room / (em * size)))
        most = 1 if kind == "id" else MOST_LINES
        if len(wrapped) > most:
            wrapped = [*wrapped[: most - 1], wrapped[most - 1][:-1] + "…"]
            cut = True
        lines += [Line(kind, each) for each in wrapped]
    full = "\n".join(filter(None, (step_id, said.head, said.code, said.text)))
    return tuple(lines), full if cut else ""


def wrap(text: str, most: int) -> list[str]:
    """Text in lines of at most so many columns; broken at spaces, and within what is longer than a line. Wide letters take two."""
    lines: list[str] = []
    line, columns = "", 0
    for word in text.split():
        room = most - columns - 1
        size = sum(map(_columns, word))
        if line and size <= room:
            line, columns = f"{line} {word}", columns + 1 + size
            continue
        if line:
            lines.append(line)
        line, columns = "", 0
        for letter in word:
            if columns + _columns(letter) > most:
                lines.append(line)
                line, columns = "", 0
            line += letter
            columns += _columns(letter)
    return [*lines, line] if line else lines


def _columns(letter: str) -> int:
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1
