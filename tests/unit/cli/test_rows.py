"""How profiles are read in bulk: what is right of a file, and what is wrong with a row, which harms no other."""

import io
import json

import pyarrow as arrow
import pytest
from pyarrow.parquet import write_table

from cairn.cli.rows import MAX_ROW_BYTES, Columns, Row, UnreadableError, count_rows, format_of, read_rows

TYPED = Columns(numbers={"age"}, booleans={"vip"}, documents={"tags"})


def csv(text: str | bytes, columns: Columns = TYPED) -> list[Row]:
    source = io.BytesIO(text.encode() if isinstance(text, str) else text)
    return list(read_rows(source, "csv", columns))


def problems(rows: list[Row]) -> list[tuple[int, str]]:
    return [(row.line, row.problem) for row in rows if row.problem]


def good(rows: list[Row]) -> dict[str, object]:
    return {row.profile_id: json.loads(row.attributes) for row in rows if not row.problem}


def test_cells_are_texts_unless_it_is_said_otherwise_and_an_empty_one_says_nothing() -> None:
    rows = csv(
        'profile_id,age,vip,tags,zip,time_zone\nada,36.5,TRUE,"[1, ""a""]",01234,Europe/London\nben,,,,,\n'
    )
    assert good(rows) == {"ada": {"age": 36.5, "vip": True, "tags": [1, "a"], "zip": "01234"}, "ben": {}}
    assert [row.time_zone for row in rows] == ["Europe/London", ""]


def test_a_quoted_cell_may_go_over_lines_and_hold_delimiters() -> None:
    rows = csv('profile_id,age,vip,tags,note\nada,1,,,"one, ""two""\nthree"\nben,2,,,x\n')
    assert good(rows) == {"ada": {"age": 1, "note": 'one, "two"\nthree'}, "ben": {"age": 2, "note": "x"}}
    assert [row.line for row in rows] == [2, 4]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("ada,1,true", "has 3 cells; there are 4 columns"),
        ("ada,1,true,[],more", "has 5 cells; there are 4 columns"),
        ("ada,old,true,[]", "column age: 'old' is no number"),
        ("ada,1e999,true,[]", "column age: '1e999' is too large"),
        ("ada,1,maybe,[]", "column vip: 'maybe' is neither true nor false"),
        ('ada,1,true,"[1,"', "column tags: is no JSON: Input data was truncated"),
        ('"ada,1,true,[]', "has a quote that is never closed"),
        ('"ada"x,1,true,[]', "can't be read as CSV: ',' expected after '\"'"),
        ('a"da,1,"true,[]', "can't be read as CSV: unexpected end of data"),
    ],
)
def test_a_bad_line_harms_no_other(line: str, problem: str) -> None:
    rows = csv(f"profile_id,age,vip,tags\neve,1,,\n{line}\nben,2,no,{{}}\ncleo,3,,\n")
    assert problems(rows) == [(3, problem)]
    assert good(rows) == {"eve": {"age": 1}, "ben": {"age": 2, "vip": False, "tags": {}}, "cleo": {"age": 3}}


def test_what_is_no_utf_8_harms_its_line_alone() -> None:
    rows = csv(
        "profile_id,age,vip,tags,name\nada,1,,,Zoë\n".encode()
        + "eva,1,,,Zoë\n".encode("latin-1")
        + b"ben,2,,,x\n"
    )
    assert problems(rows) == [(3, "is not UTF-8: byte 11 is 0xeb")]
    assert list(good(rows)) == ["ada", "ben"]


def test_another_encoding_and_another_delimiter() -> None:
    text = "profile_id;name\nada;Zoë\n".encode("latin-1")
    assert good(csv(text, Columns(delimiter=";", encoding="latin-1"))) == {"ada": {"name": "Zoë"}}


def test_a_mark_at_the_beginning_is_no_part_of_the_first_name() -> None:
    assert good(csv("\ufeffprofile_id,name\nada,x\n", Columns())) == {"ada": {"name": "x"}}


class Endless(io.RawIOBase):
    """A file of which one line has 100 MB; what is asked for at once is noted."""

    def __init__(self) -> None:
        self.left = 100_000_000
        self.head = io.BytesIO(b"profile_id,name\nada,x\n")
        self.tail = io.BytesIO(b"\nben,y\n")
        self.longest = 0

    def readline(self, size: int | None = -1) -> bytes:
        assert size is not None
        assert size > 0, "a whole line is asked for, however long it is"
        if line := self.head.readline(size):
            return line
        if self.left:
            piece = b"z" * min(size, self.left)
            self.left -= len(piece)
            self.longest = max(self.longest, len(piece))
            return piece
        return self.tail.readline(size)


def test_a_hundred_megabytes_in_one_line_are_passed_over_in_pieces() -> None:
    source = Endless()
    rows = list(read_rows(source, "csv", Columns()))  # type: ignore[arg-type]
    assert problems(rows) == [(3, f"is longer than {MAX_ROW_BYTES:,} bytes")]
    assert good(rows) == {"ada": {"name": "x"}, "ben": {"name": "y"}}
    assert source.longest <= 1 << 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "The file is empty; its first line names the columns."),
        (
            b"id,name\n1,x\n",
            "There is no column 'profile_id'; there are id, name. Say which holds the id with --id-column.",
        ),
        (b"profile_id,a,a\n", "Columns are there twice: a."),
        (b"profile_id,name\n1,x\n", "There is no column 'age'; there are profile_id, name."),
        (
            "profile_id\n1\n".encode("utf-16"),
            "The file is UTF-16, it seems; say --encoding utf-16, or convert it.",
        ),
        (b"profile_id,\xff\n", "The first line, which names the columns, is not UTF-8: byte 12 is 0xff."),
    ],
)
def test_a_file_that_is_something_else_is_refused_whole(text: bytes, message: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        csv(text, Columns(numbers={"age"}))
    assert str(caught.value) == message


def test_json_lines() -> None:
    lines = b"""{"profile_id": "ada", "attributes": {"age": 36, "tags": ["a"]}, "time_zone": "Asia/Tokyo"}

{"profile_id": "ben"}
{"profile_id": 5}
{"profile_id": "eve", "atributes": {}}
not json
{"profile_id": "cleo", "attributes": {"x": "\xff"}}
{"profile_id": "dora", "attributes": [1]}
"""
    rows = list(read_rows(io.BytesIO(lines), "jsonl", Columns()))
    assert good(rows) == {"ada": {"age": 36, "tags": ["a"]}, "ben": {}, "dora": [1]}
    assert [line for line, _ in problems(rows)] == [4, 5, 6, 7]
    assert all(problem.startswith("is no profile: ") for _, problem in problems(rows))


def test_parquet() -> None:
    table = arrow.table(
        {
            "profile_id": ["ada", "ben"],
            "age": [36, None],
            "tags": [["a"], []],
            "time_zone": ["Asia/Tokyo", None],
        }
    )
    source = io.BytesIO()
    write_table(table, source)
    source.seek(0)
    assert count_rows(source, "parquet") == 2
    rows = list(read_rows(source, "parquet", Columns()))
    assert good(rows) == {"ada": {"age": 36, "tags": ["a"]}, "ben": {"tags": []}}
    assert [row.time_zone for row in rows] == ["Asia/Tokyo", ""]
    with pytest.raises(UnreadableError, match="The file is no Parquet"):
        list(read_rows(io.BytesIO(b"profile_id\nada\n"), "parquet", Columns()))


def test_rows_are_counted_for_the_bar_and_formats_told_by_names() -> None:
    assert count_rows(io.BytesIO(b"profile_id\nada\nben\n"), "csv") == 2
    assert count_rows(io.BytesIO(b"{}\n{}\n"), "jsonl") == 2
    assert [format_of(name) for name in ("a.CSV", "b.jsonl", "c.parquet", "d.txt")] == [
        "csv",
        "jsonl",
        "parquet",
        "",
    ]
