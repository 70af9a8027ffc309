"""Owns journeys as pictures: Mermaid for documents, SVG for looking at. Pure and deterministic, from the model alone.

Stages are lanes and steps are boxes; branches nest and meet again where the step that holds them ends.
"""

from collections.abc import Sequence

from cairn.journey import _diagram_words as words
from cairn.journey._diagram_layout import lay_out
from cairn.journey._diagram_svg import write
from cairn.journey._diagram_words import Words
from cairn.journey.model import End, ExitCriterion, Journey, Jump, Step, ways


def to_svg(journey: Journey) -> str:
    """The journey as an SVG document; text is escaped, and what is too long for its box is in the box's title in full."""
    return write(lay_out(journey))


def to_mermaid(journey: Journey) -> str:
    """The journey as a Mermaid flowchart, as GitHub and others draw it."""
    return _Mermaid(journey).text()


_SHAPES = {
    "wait": ('(["', '"])'),
    "activation": ('["', '"]'),
    "decision": ('{"', '"}'),
    "experiment": ('{"', '"}'),
    "jump": ('[["', '"]]'),
    "end": ('(("', '"))'),
    "entry": ('>"', '"]'),
    "milestone": ('>"', '"]'),
    "goal": ('(["', '"])'),
    "exit": ('(["', '"])'),
    "rest": ('(("', '"))'),
}
"""What stands around a label, by style."""

_CLASSES = {
    "wait": "fill:#fff8e6,stroke:#d9a400",
    "activation": "fill:#e4f0ff,stroke:#2673d9",
    "decision": "fill:#f2eaff,stroke:#8056c7",
    "experiment": "fill:#e2f6f2,stroke:#0f9680",
    "jump": "fill:#ffeee0,stroke:#d9731a",
    "end": "fill:#eceff3,stroke:#7a8594",
    "entry": "fill:#e9edff,stroke:#4a5bd0",
    "milestone": "fill:#e6f6e8,stroke:#35924a",
    "goal": "fill:#d9f2dd,stroke:#217a37",
    "exit": "fill:#fdecec,stroke:#cc4444",
    "rest": "fill:#66717f,stroke:#66717f",
}

_MARKS = '"#&<>`%\\'
"""What means something to Mermaid or HTML within a label."""

_Loose = list[tuple[str, str]]
"""Ends of lines that go on to the next step: the node, and what stands at the line."""


class _Mermaid:
    """Writes one journey; nodes are numbered in order."""

    def __init__(self, journey: Journey) -> None:
        self.journey = journey
        self.lines: list[str] = []
        self.number = 0
        self.used: set[str] = set()

    def text(self) -> str:
        journey = self.journey
        self.lines.append("flowchart TB")
        self.lines.append(f"  %% {journey.journey_id}")
        for index, stage in enumerate(journey.stages):
            self.lines.append(f'  subgraph s{index}["{_label(f"{index + 1} {stage.name}")}"]')
            self.lines.append("    direction LR")
            said = words.of_milestone(journey, index - 1) if index else words.of_entry(journey)
            door = self.node(said)
            loose = self.steps(stage.steps, [(door, "")])
            if loose:
                # Where the flow of the stage comes to rest, and ways without steps arrive.
                self.join(loose, self.node(Words("rest", "")))
            self.lines.append("  end")
        # From lane to lane: a line to a box in a lane would turn the lane.
        self.lines += [
            f"  s{index} -. milestone .-> s{index + 1}" for index in range(len(journey.stages) - 1)
        ]
        self.ways_out()
        for style in sorted(self.used):
            self.lines.append(f"  classDef {style}Box {_CLASSES[style]},color:#1d2733")
        return "\n".join([*self.lines, ""])

    def ways_out(self) -> None:
        """The goal, the exits of the journey, and those of each stage."""
        journey = self.journey
        if journey.goal or journey.exits:
            self.lines.append('  subgraph out["at any time"]')
            self.lines.append("    direction LR")
            if journey.goal:
                self.node(words.of_goal(journey))
            leading = [(self.node(words.of_exit(journey, exit)), exit) for exit in journey.exits]
            self.lines.append("  end")
            self.lead(leading)
        for index, stage in enumerate(journey.stages):
            leading = [(self.node(words.of_exit(journey, exit), "  "), exit) for exit in stage.exits]
            self.lines += [f"  s{index} -.-> {node}" for node, _ in leading]
            self.lead(leading)

    def lead(self, leading: Sequence[tuple[str, ExitCriterion]]) -> None:
        """Lines from exits to the stages that they lead to."""
        for node, exit in leading:
            if exit.to is not None:
                self.lines.append(f"  {node} --> s{exit.to}")

    def node(self, said: Words, indent: str = "    ", step_id: str = "") -> str:
        self.number += 1
        name = f"n{self.number}"
        begin, end = _SHAPES[said.style]
        parts = [_said(said)] if said.head else [" "]
        parts += [f"<small>{_label(step_id)}</small>"] if step_id else []
        self.used.add(said.style)
        self.lines.append(f"{indent}{name}{begin}{'<br>'.join(parts)}{end}:::{said.style}Box")
        return name

    def join(self, loose: _Loose, node: str) -> None:
        self.lines += [f"    {before} {_arrow(at)} {node}" for before, at in loose]

    def steps(self, steps: Sequence[Step], loose: _Loose) -> _Loose:
        """Writes steps behind loose ends, and returns the ends that are loose then."""
        for step in steps:
            node = self.node(words.of_step(step.kind), step_id=step.step_id)
            self.join(loose, node)
            labels = words.of_ways(step.kind)
            if isinstance(step.kind, Jump | End):
                loose = []
            elif not labels:
                loose = [(node, "")]
            else:
                loose = []
                for said, (_, inner) in zip(labels, ways(step.kind), strict=True):
                    loose += self.steps(inner, [(node, _said(said))])
        return loose


def _said(said: Words) -> str:
    parts = [f"<b>{_label(said.head)}</b>"]
    parts += [f"<code>{_label(said.code)}</code>"] if said.code else []
    parts += [_label(said.text)] if said.text else []
    return "<br>".join(parts)


def _arrow(said: str) -> str:
    return f'-- "{said}" -->' if said else "-->"


def _label(text: str) -> str:
    """Text that means nothing to Mermaid or HTML: entities stand for all that could."""
    return "".join(f"#{ord(each)};" if each in _MARKS or not each.isprintable() else each for each in text)
