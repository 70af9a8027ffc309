"""`cairn diagram`: journeys of a file as Mermaid on stdout, or in files of their own."""

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import Result

Run = Callable[..., Result]

JOURNEY = "name: NAME\ntype: REAL_TIME\nstages: [{name: only, entry: event.name == 'x', steps: [{activation: {channel: log}}]}]\n"


@pytest.fixture
def one(tmp_path: Path) -> Path:
    path = tmp_path / "one.yaml"
    path.write_text(JOURNEY.replace("NAME", "first") + "---\nsegment: {name: vip, criteria: profile.vip}\n")
    return path


@pytest.fixture
def two(tmp_path: Path) -> Path:
    path = tmp_path / "two.yaml"
    path.write_text(JOURNEY.replace("NAME", "first") + "---\n" + JOURNEY.replace("NAME", "second"))
    return path


def test_mermaid_on_stdout(run: Run, one: Path) -> None:
    result = run("diagram", str(one))
    assert result.exit_code == 0
    assert result.stdout.startswith("flowchart TB\n  %% first\n")
    assert result.stderr == ""
    assert run("diagram", str(one), "--mermaid", "-").stdout == result.stdout
    assert run("diagram", "-", input=one.read_text()).stdout == result.stdout


def test_several_journeys_one_after_the_other(run: Run, two: Path) -> None:
    result = run("diagram", str(two))
    assert [line for line in result.stdout.splitlines() if "%%" in line] == ["  %% first", "  %% second"]


def test_svg_in_a_file(run: Run, one: Path, tmp_path: Path) -> None:
    result = run("diagram", str(one), "--svg", str(tmp_path / "out.svg"))
    assert (result.exit_code, result.stdout) == (0, "")
    assert "first is drawn in" in result.stderr
    ElementTree.parse(tmp_path / "out.svg")
    assert run("diagram", str(one), "--svg", "-").stdout == (tmp_path / "out.svg").read_text()


def test_several_journeys_get_a_file_each(run: Run, two: Path, tmp_path: Path) -> None:
    result = run(
        "diagram", str(two), "--svg", str(tmp_path / "out.svg"), "--mermaid", str(tmp_path / "out.mmd")
    )
    assert result.exit_code == 0
    found = sorted(path.name for path in tmp_path.glob("out*"))
    assert found == ["out-first.mmd", "out-first.svg", "out-second.mmd", "out-second.svg"]
    assert "%% second" in (tmp_path / "out-second.mmd").read_text()


def test_for_programs(run: Run, two: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in run("diagram", str(two), "--json").stdout.splitlines()]
    assert [(each["journey"], each["format"]) for each in lines] == [
        ("first", "mermaid"),
        ("second", "mermaid"),
    ]
    assert lines[0]["text"].startswith("flowchart TB")
    file = str(tmp_path / "out.svg")
    lines = [
        json.loads(line) for line in run("diagram", str(two), "--json", "--svg", file).stdout.splitlines()
    ]
    assert lines[1] == {"journey": "second", "format": "svg", "file": str(tmp_path / "out-second.svg")}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (JOURNEY.replace("NAME", "Not An Id"), "nothing was drawn.\n"),
        ("segment: {name: vip, criteria: profile.vip}", "holds no journey."),
    ],
)
def test_what_is_wrong_is_told_and_nothing_drawn(run: Run, tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    result = run("diagram", str(path), "--svg", str(tmp_path / "out.svg"))
    assert result.exit_code == 1
    assert says in result.stderr
    assert not (tmp_path / "out.svg").exists()


def test_a_file_that_is_not_there_or_cant_be_written(run: Run, one: Path) -> None:
    assert "/no/such.yaml: No such file or directory" in run("diagram", "/no/such.yaml").stderr
    result = run("diagram", str(one), "--svg", "/no/such/folder/out.svg")
    assert result.exit_code == 1
    assert "No such file or directory" in result.stderr
