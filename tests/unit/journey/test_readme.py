"""Every example of the README is what it says."""

import re
from pathlib import Path

import pytest

from cairn.testing.journeys import event, passes, read_journey, tell

README = (Path(__file__).parents[3] / "libs" / "journey" / "README.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text.split("\n")[0])
def test_a_journey_of_the_readme_can_be_run(text: str) -> None:
    assert read_journey(text).journey_id in text


def test_there_are_two() -> None:
    assert len(EXAMPLES) == 2


def test_the_story_of_the_readme_is_true() -> None:
    (source,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(source, {"journey": EXAMPLES[0]})


def test_arithmetic_takes_doubles_and_comparisons_mix() -> None:
    text = EXAMPLES[1]
    lines = tell(
        text,
        event("signup"),
        event("project_created", at="1h"),
        event("more", at="2h", seats=3),
        passes("1h"),
        attributes={"country": "JP", "seats": 5},
    )
    assert [line for line in lines if "STAGE_ENTERED" in line] == [
        "0s STAGE_ENTERED first-steps",
        "1h STAGE_ENTERED active",
        "2h STAGE_ENTERED win-back",
    ]
