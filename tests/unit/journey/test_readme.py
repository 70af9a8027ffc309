"""Every example of the README is what it says: journeys parse, criteria compile, the test and the commands run."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from cairn.cli.main import cli
from cairn.journey import limits
from cairn.journey.behavior import LATENESS_US, MOST_EVENTS, MOST_KEPT
from cairn.rules import Scope, compile_criteria
from cairn.testing.journeys import event, passes, play, read_journey, read_journeys, read_table, tell

README = (Path(__file__).parents[3] / "libs" / "journey" / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


YAML = blocks("yaml")
JOURNEYS = [text for text in YAML if "\nstages:" in text]
(CART,) = (text for text in JOURNEYS if "# cart.yaml" in text)
(TRIAL,) = (text for text in JOURNEYS if "name: trial" in text)
(WIN_BACK,) = (text for text in JOURNEYS if "# win-back.yaml" in text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the examples speak of."""
    (tmp_path / "cart.yaml").write_text(CART)
    (tmp_path / "win-back.yaml").write_text(WIN_BACK)
    for name, text in zip(("events", "people"), blocks("jsonl"), strict=True):
        (tmp_path / f"{name}.jsonl").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_there_is() -> None:
    counts = [len(blocks(each)) for each in ("yaml", "jsonl", "cel", "python", "console")]
    assert counts == [6, 2, 1, 1, 4]
    assert README.count("```") == 2 * sum(counts)
    assert len(JOURNEYS) == 5


@pytest.mark.parametrize("text", JOURNEYS, ids=lambda text: text.split("\n")[0])
def test_a_journey_can_be_run(text: str) -> None:
    journeys, _ = read_journeys(text)
    assert [journey.journey_id in text for journey in journeys] == [True]


def test_the_catalogue_holds_every_kind_of_step_and_every_field() -> None:
    from cairn.api.definition.v1 import journey_pb2 as pb

    words = set(re.findall(r"[a-z_]+", TRIAL))
    for message in (
        pb.Journey,
        pb.Stage,
        pb.Step,
        pb.Wait,
        pb.Decision,
        pb.Experiment,
        pb.ExitCriterion,
        pb.Reentry,
    ):
        told = {field.name for field in message.DESCRIPTOR.fields if field.number < 20}
        assert told <= words, told - words


@pytest.mark.parametrize("line", blocks("cel")[0].splitlines())
def test_a_criteria_compiles(line: str) -> None:
    compile_criteria(line, Scope.ENROLLMENT)


def test_the_story_is_true() -> None:
    exec(blocks("python")[0], {"cart": CART})
    with pytest.raises(AssertionError):
        exec(blocks("python")[0].replace("3h RESTED", "4h RESTED"), {"cart": CART})


def test_the_table_is_true(folder: Path) -> None:
    (text,) = (each for each in YAML if each not in JOURNEYS)
    path = folder / "cart.journey-test.yaml"
    path.write_text(text)
    (case,) = read_table(path)
    case.check()


def squeezed(text: str) -> list[str]:
    """Lines with one space between words, and none that only draw a table."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in lines if line and not set(line) <= set("─ ")]


@pytest.mark.parametrize("block", blocks("console"), ids=lambda block: block.split("\n")[0])
def test_commands_say_what_is_shown(block: str, folder: Path) -> None:
    shown = ["".join(part) for part in re.findall(r"^\$ (.*\n)((?:(?!\$ ).*\n)*)", block, re.MULTILINE)]
    assert shown
    for each in shown:
        command, _, output = each.partition("\n")
        program, *arguments = shlex.split(command)
        assert program == "cairn"
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, result.output
        assert squeezed(result.stdout) == squeezed(output)


def test_files_that_commands_write(folder: Path) -> None:
    CliRunner().invoke(cli, ["diagram", "cart.yaml", "--svg", "cart.svg"])
    assert (folder / "cart.svg").read_text().startswith("<svg ")


def test_bounds_are_those_of_the_code() -> None:
    assert f"the {MOST_KEPT:,} newest of a name" in README.replace("\n", " ")
    assert f"the {MOST_EVENTS} newest" in README
    assert f"up to {LATENESS_US // limits.DAY_US} days late" in README
    assert f"more than {limits.MAX_STAGES} stages or {limits.MAX_ELEMENTS} elements" in README.replace(
        "\n", " "
    ).replace("  ", " ")
    assert (
        f"At most {limits.MAX_STAGES} stages, {limits.MAX_BATCH_ELEMENTS} elements, {limits.MAX_BATCH_STAGE_ELEMENTS} of them in a stage"
        in README
    )
    assert f"At most {limits.MAX_STEPS} steps run for one input" in README
    assert f"{limits.MIN_BRANCHES} to {limits.MAX_BRANCHES} branches" in README
    assert f"1 to {limits.MAX_VARIANTS} variants" in README
    assert f"A goal is remembered for {limits.GOAL_MEMORY_US // limits.DAY_US} days" in README


def test_ids_are_those_of_the_catalogue() -> None:
    from cairn.journey.plan import compile_plan

    ids = {
        instruction.step_id
        for instruction in compile_plan(read_journey(TRIAL), 1).program
        if hasattr(instruction, "step_id")
    }
    told = re.findall(r"`((?:active|first-steps)/[a-z0-9/_]+)`", README)
    assert len(told) == 5
    assert set(told) <= ids


def test_arithmetic_takes_doubles_and_comparisons_mix() -> None:
    text = CART.replace('"cart_add"', '"cart_add" && profile.seats > 5 && profile.seats * 2.0 == 12.0')
    assert tell(text, event("cart_add"), attributes={"seats": 6})
    assert not tell(text.replace("2.0", "2"), event("cart_add"), attributes={"seats": 6})


def test_a_schedule_is_what_a_batch_journey_runs_by() -> None:
    journey, _ = read_journeys(WIN_BACK)
    schedule = journey[0].schedule
    assert schedule is not None
    assert (schedule.cron, schedule.time_zone) == ("0 6 * * MON-FRI", "Europe/Berlin")
    assert "five fields, minute, hour, day of month, month and day of week" in README


def test_a_reminder_for_each_cart_three_hours_after_its_last_item() -> None:
    (text,) = (each for each in JOURNEYS if "each-cart" in each)
    story = play(
        text,
        event("cart_add", cart_id="a"),
        event("cart_add", at="1h", cart_id="b"),
        event("cart_add", at="2h", cart_id="a"),
        passes("9h"),
    )
    assert [line for line in story.lines if "ACTIVATION" in line] == [
        "4h ACTIVATION_REQUESTED cart/2 through email",
        "5h ACTIVATION_REQUESTED cart/2 through email",
    ]
