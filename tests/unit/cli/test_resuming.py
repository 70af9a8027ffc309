"""Where a long command goes on: only over the very same source, and by the very same command."""

import json
import os
from pathlib import Path

from cairn.cli.resuming import Position, ProgressFile, Rejects


def test_a_position_is_found_again_by_the_same_command_over_the_same_source(tmp_path: Path) -> None:
    source = tmp_path / "people.csv"
    source.write_text("profile_id\nada\n")
    assert ProgressFile(str(source), "import merge").load() == Position()
    ProgressFile(str(source), "import merge").save(Position(5, 4, 1, 20))
    assert ProgressFile(str(source), "import merge").load() == Position(5, 4, 1, 20)
    assert ProgressFile(str(source), "import replace").load() == Position()
    source.write_text("profile_id\nada\nben\n")
    assert ProgressFile(str(source), "import merge").load() == Position()


def test_a_damaged_progress_file_is_none(tmp_path: Path) -> None:
    source = tmp_path / "people.csv"
    source.write_text("profile_id\n")
    place = ProgressFile(str(source), "import")
    place.path.write_text("{")
    assert place.load() == Position()
    place.save(Position(1))
    place.forget()
    assert os.listdir(tmp_path) == ["people.csv"]
    place.forget()


def test_rejects_are_noted_once_however_often_a_command_breaks_off(tmp_path: Path) -> None:
    path = tmp_path / "people.csv.rejects"
    assert Rejects(path, 0).write([]) == 0
    assert not path.exists(), "without rejects there is no file of them"
    kept = Rejects(path, 0).write([(2, "is bad")])
    Rejects(path, kept).write([(7, "was noted, but not yet that it was done")])
    again = Rejects(path, kept)
    again.write([])
    again.write([(7, "is bad too")])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"line": 2, "reason": "is bad"}, {"line": 7, "reason": "is bad too"}]
