"""The mailbox's index, as those who wait for a message read it."""

from pathlib import Path

from cairn.testing.mail_server import INDEX, read_index


def test_a_line_that_is_being_written_counts_next_time(tmp_path: Path) -> None:
    assert read_index(tmp_path) == []
    (tmp_path / INDEX).write_text('{"file": "1.eml"}\n{"file": "2.e')
    assert read_index(tmp_path) == [{"file": "1.eml"}]
    (tmp_path / INDEX).write_text('{"file": "1.eml"}\n{"file": "2.eml"}\n')
    assert read_index(tmp_path) == [{"file": "1.eml"}, {"file": "2.eml"}]
