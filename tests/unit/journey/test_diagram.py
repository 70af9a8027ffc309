"""Pictures of journeys: the same to the byte each time, legible, and safe whatever the text.

The files in `golden` are what the pictures were when somebody last looked at them. Write them anew with
CAIRN_WRITE_GOLDEN=1, and look.
"""

import os
import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cairn.journey._diagram_layout import LANE_HEAD, MARGIN, Box, lay_out, wrap
from cairn.journey._diagram_words import of_step, of_ways
from cairn.journey.diagram import to_mermaid, to_svg
from cairn.journey.model import Journey, Step, ways
from cairn.testing.journeys import read_journey, read_journeys

GOLDEN = Path(__file__).parent / "golden"
README = (Path(__file__).parents[3] / "libs" / "journey" / "README.md").read_text()
EXAMPLES = {
    name: text
    for text in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    for name in re.findall(r"^name: (.*)", text, re.MULTILINE)
}
NESTED = """
name: nested
type: REAL_TIME
exit_criteria: [{name: over, criteria: event.name == "over", to: three}, {name: cold, stale: 12h}]
stages:
  - name: one
    entry: event.name == "begin" && profile.tags.exists(t, t.startsWith("a-rather-long-tag-that-does-not-fit-into-a-line"))
    milestone: event.name == "on"
    exit_criteria: [{name: left, criteria: event.name == "leave"}, {name: idle, stale: 90m, to: two}]
    steps:
      - decision:
          branches:
            - name: new
              criteria: profile.years < 1
              steps:
                - experiment:
                    variants:
                      - {name: off, percent: 0}
                      - name: talk
                        percent: 100
                        steps:
                          - wait:
                              condition: event.name == "login"
                              timeout: 1d
                              met: [{name: hello, activation: {channel: email, template: hello}}]
                              timed_out: [{jump: {journey: other}}]
                          - activation: {channel: sms}
                - activation: {channel: webhook}
            - {name: gone, criteria: profile.years > 90, steps: [{end: {}}]}
      - wait: {until_time: "18:30", weekdays: [SAT, SUN, WED]}
      - wait: {until: "2027-01-31T09:00:30Z"}
      - jump: {journey: other, stage: somewhere}
  - name: two
    milestone: event.name == "further"
  - name: three
    steps: [{activation: {channel: ads, action: REMOVE}}, {end: {}}]
"""
SHOWN = {"trial": EXAMPLES["trial"], "abandoned-cart": EXAMPLES["abandoned-cart"], "nested": NESTED}
JOURNEYS = [read_journey(text) for text in (*SHOWN.values(), EXAMPLES["each-cart"])]


@pytest.mark.parametrize("name", list(SHOWN))
@pytest.mark.parametrize(("suffix", "draw"), [("svg", to_svg), ("mmd", to_mermaid)])
def test_golden(name: str, suffix: str, draw: object) -> None:
    drawn = draw(read_journey(SHOWN[name]))  # type: ignore[operator]
    file = GOLDEN / f"{name}.{suffix}"
    if os.environ.get("CAIRN_WRITE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(drawn)
    assert drawn == file.read_text()


def inside(box: Box, x: float, y: float, width: float, height: float) -> bool:
    return x <= box.x and y <= box.y and box.x + box.width <= x + width and box.y + box.height <= y + height


def apart(a: Box, b: Box) -> bool:
    return a.x + a.width <= b.x or b.x + b.width <= a.x or a.y + a.height <= b.y or b.y + b.height <= a.y


def steps_of(steps: tuple[Step, ...]) -> list[Step]:
    return [
        each
        for step in steps
        for each in (step, *(deep for _, inner in ways(step.kind) for deep in steps_of(inner)))
    ]


@pytest.mark.parametrize("journey", JOURNEYS, ids=lambda journey: journey.journey_id)
def test_boxes_lie_apart_and_in_their_lanes(journey: Journey) -> None:
    layout = lay_out(journey)
    assert all(apart(a, b) for a, b in combinations(layout.boxes, 2))
    for box in layout.boxes:
        assert inside(box, 0, 0, layout.width, layout.height)
    for lane in layout.lanes:
        assert lane.x + lane.width <= layout.width - MARGIN
    lanes = [
        [box for box in layout.boxes if inside(box, lane.x, lane.y, lane.width, lane.height)]
        for lane in layout.lanes
    ]
    for stage, boxes in zip(journey.stages, lanes, strict=True):
        steps = steps_of(stage.steps)
        labels = sum(len(of_ways(step.kind)) for step in steps)
        # What opens it, its exits, its steps, and a label for each way.
        assert len(boxes) == 1 + len(stage.exits) + len(steps) + labels


@pytest.mark.parametrize("journey", JOURNEYS, ids=lambda journey: journey.journey_id)
def test_lines_begin_and_end_at_boxes_and_cross_none(journey: Journey) -> None:
    layout = lay_out(journey)
    for path in layout.paths:
        for (x1, y1), (x2, y2) in zip(path.points, path.points[1:], strict=False):
            assert x1 == x2 or y1 == y2, "right angles"
            for box in layout.boxes:
                middle = (x1 + x2) / 2, (y1 + y2) / 2
                within = box.x < middle[0] < box.x + box.width and box.y < middle[1] < box.y + box.height
                assert not within
        assert path.points[0] != path.points[-1]
        if path.arrow:
            x, y = path.points[-1]
            assert any(abs(box.x - x) < 0.01 or abs(box.y - y) < 0.01 for box in layout.boxes)


@pytest.mark.parametrize("journey", JOURNEYS, ids=lambda journey: journey.journey_id)
def test_svg_says_everything(journey: Journey) -> None:
    root = ElementTree.fromstring(to_svg(journey))
    said = " ".join(text for text in root.itertext() if text.strip())
    for stage in journey.stages:
        assert stage.name in said
        for step in steps_of(stage.steps):
            assert step.step_id in said or "…" in said
            assert of_step(step.kind).head in said
    squeezed = re.sub(r"\s+", "", said)
    for criteria in filter(
        None, (journey.entry, journey.goal, *(stage.milestone for stage in journey.stages))
    ):
        assert re.sub(r"\s+", "", criteria.source) in squeezed


def test_text_is_escaped_in_both() -> None:
    criteria = r"""'event.name == "<script>alert(`&`)</script>%% {x} \"]"'"""
    journey = read_journey(EXAMPLES["abandoned-cart"].replace('event.name == "purchase"', criteria))
    svg = to_svg(journey)
    assert "<script" not in svg
    assert "&lt;script&gt;" in svg
    ElementTree.fromstring(svg)
    mermaid = to_mermaid(journey)
    assert "<script" not in mermaid
    assert "%%" not in mermaid.replace("  %% abandoned-cart", "")
    assert mermaid.count('"') % 2 == 0


def test_letters_that_xml_has_no_way_to_write() -> None:
    journey = read_journey(EXAMPLES["abandoned-cart"].replace('"purchase"', r"""'\u0001purchase'"""))
    ElementTree.fromstring(to_svg(journey))
    raw = EXAMPLES["abandoned-cart"].replace(
        '{criteria: event.name == "purchase"}', r'{criteria: "event.name == \"a\x07b\ufffe\""}'
    )
    assert "�" in to_svg(read_journey(raw))
    ElementTree.fromstring(to_svg(read_journey(raw)))


@pytest.mark.parametrize(
    ("text", "most", "lines"),
    [
        ("", 10, []),
        ("one two three", 13, ["one two three"]),
        ("one two three", 7, ["one two", "three"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
        ("a abcdefghij b", 4, ["a", "abcd", "efgh", "ij b"]),
        ("好好好 ab", 4, ["好好", "好", "ab"]),
    ],
)
def test_wrapping(text: str, most: int, lines: list[str]) -> None:
    assert wrap(text, most) == lines


def test_what_does_not_fit_is_cut_and_told_in_full() -> None:
    long = " || ".join(f'event.name == "name-{number}"' for number in range(30))
    layout = lay_out(
        read_journey(EXAMPLES["abandoned-cart"].replace('event.name == "purchase"', f"'{long}'"))
    )
    (goal,) = (box for box in layout.boxes if box.style == "goal")
    assert len(goal.lines) <= 9
    assert goal.lines[-1].text.endswith("…")
    assert long in goal.full


def test_the_longest_names_stay_in_their_boxes() -> None:
    name = "a" * 63
    text = (
        EXAMPLES["abandoned-cart"]
        .replace("name: cart", f"name: {name}")
        .replace("template: cart-reminder", f"template: {name}")
    )
    layout = lay_out(read_journey(text))
    (step,) = (box for box in layout.boxes if box.style == "activation")
    assert max(len(line.text) for line in step.lines) * 5.6 <= step.width
    assert f'textLength="{LANE_HEAD - 20}"' in to_svg(read_journey(text))


def test_mermaid_names_every_step_and_every_way() -> None:
    for journey in JOURNEYS:
        mermaid = to_mermaid(journey)
        for stage in journey.stages:
            for step in steps_of(stage.steps):
                assert f"<small>{step.step_id}</small>" in mermaid
        nodes = set(re.findall(r"^ +(n\d+)[\[({>]", mermaid, re.MULTILINE))
        drawn = set(re.findall(r"\b(n\d+)\b", re.sub(r'"[^"]*"', "", mermaid)))
        assert drawn == nodes
        assert not re.search(r":::end\b", mermaid), "end is a word of Mermaid's own"


def test_a_control_group_at_the_end_is_drawn_too() -> None:
    assert '-- "<b>control</b><br>20 #37;" -->' in to_mermaid(read_journey(EXAMPLES["trial"]))


def test_the_same_each_time() -> None:
    for text in SHOWN.values():
        assert to_svg(read_journey(text)) == to_svg(read_journey(text))
        assert to_mermaid(read_journey(text)) == to_mermaid(read_journey(text))


def test_a_batch_journey_shows_whom_it_is_for_and_when_it_runs() -> None:
    (text,) = (each for each in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if "# win-back" in each)
    journeys, _ = read_journeys(text)
    mermaid = to_mermaid(journeys[0])
    assert "at each run, 0 6 * * MON-FRI Europe/Berlin" in mermaid
    assert "(profile.ad_consent == true #38;#38; in_segment(#34;customers#34;)) #38;#38; (count(" in mermaid
    (entry,) = (box for box in lay_out(journeys[0]).boxes if box.style == "entry")
    assert "0 6 * * MON-FRI Europe/Berlin" in " ".join(line.text for line in entry.lines)
    always = read_journey(
        "name: a\ntype: BATCH\naudience: profile.x == 1\nstages: [{name: s, entry: 'true'}]"
    )
    assert '<code>profile.x == 1</code><br>at each run"' in to_mermaid(always)
