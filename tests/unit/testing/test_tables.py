"""Tables of cases in YAML: what they may say, what is wrong with one, and what pytest makes of them."""

import subprocess
import sys
from pathlib import Path

import pytest

from cairn.journey.live import PauseMode
from cairn.journey.times import to_us
from cairn.testing.journeys import (
    Alarm,
    Change,
    End,
    Event,
    Passes,
    Pause,
    Place,
    Publish,
    Receipt,
    Resume,
    Run,
    TableError,
    read_table,
)

CART = """\
name: cart
type: REAL_TIME
goal: {criteria: event.name == "purchase"}
reentry: {mode: ALWAYS}
stages:
  - name: one
    entry: event.name == "cart_add"
    steps: [{wait: {duration: 3h}}, {activation: {channel: email}}]
"""
TABLE = """\
journeys: [cart.yaml]
cases:
  - case: one reminder
    steps:
      - when: cart_add
      - after: 3h
      - then:
          - 0s ENTERED one
          - 0s STAGE_ENTERED one
          - 0s WAIT_STARTED one/1 until 3h
          - 3h WAIT_ENDED one/1
          - 3h ACTIVATION_REQUESTED one/2 through email
          - 3h RESTED one
      - when: purchase
      - then: [3h ACTIVATION_WITHDRAWN one/2, 3h GOAL_ACHIEVED one]
  - case: no cart, no reminder
    steps:
      - when: purchase
      - then: []
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "cart.yaml").write_text(CART)
    path = tmp_path / "cart.journey-test.yaml"
    path.write_text(TABLE)
    return path


def test_cases_and_where_they_are_written(table: Path) -> None:
    first, second = read_table(table)
    assert (first.words, second.words) == ("one reminder", "no cart, no reminder")
    assert first.moments == (Event("cart_add"), Passes(3 * 3_600_000_000), Event("purchase"))
    assert first.place == Place(str(table), 3, (8, 9, 10, 11, 12, 13, 15, 15))
    assert first.journeys == CART
    assert second.then == ()
    for case in (first, second):
        case.check()


def test_everything_that_can_happen_and_be_given(table: Path) -> None:
    table.write_text(f"""\
journeys: |
{"".join(f"  {line}" for line in CART.splitlines(keepends=True))}
given: {{attributes: {{a: 1, b: 2}}, time_zone: Asia/Tokyo, profile_id: bob}}
only: [ENTERED]
cases:
  - case: all
    given: {{attributes: {{b: 3}}, start: "2026-03-29T00:00:00Z"}}
    only: [EXITED, RESTED]
    steps:
      - when: {{event: cart_add, at: 1h, properties: {{total: 5}}, event_id: e}}
      - when: {{event: look, at: -1h}}
      - when: {{profile: {{city: Kyoto, a: null}}, at: 2h, time_zone: Europe/Berlin}}
      - when: {{receipt: one/2}}
      - when: {{run: cart, at: 3h}}
      - when: {{run: }}
      - when: {{alarm: off}}
      - when: {{alarm: on}}
      - when: {{publish: [cart.yaml]}}
      - when: {{pause: cart, mode: RUN}}
      - when: {{pause: }}
      - when: {{resume: cart}}
      - when: {{end: cart, remove: true}}
      - after: 1h30m
      - then: []
""")
    (case,) = read_table(table)
    hour = 3_600_000_000
    assert case.moments == (
        Event("cart_add", hour, {"total": 5}, "e"),
        Event("look", -hour),
        Change(2 * hour, {"city": "Kyoto", "a": None}, "Europe/Berlin"),
        Receipt("one/2"),
        Run(3 * hour, "cart"),
        Run(None, ""),
        Alarm(False),
        Alarm(True),
        Publish(CART),
        Pause(PauseMode.RUN, "cart"),
        Pause(PauseMode.FREEZE, ""),
        Resume("cart"),
        End(True, "cart"),
        Passes(hour * 3 // 2),
    )
    assert (case.attributes, case.time_zone, case.profile_id) == ({"a": 1, "b": 3}, "Asia/Tokyo", "bob")
    assert case.start_us == to_us("2026-03-29T00:00:00Z")
    assert case.only == ("EXITED", "RESTED")


HEAD = "journeys: [cart.yaml]\ncases:\n"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", 1, "is empty; a table has journeys and cases"),
        ("a: [", 1, "is not YAML: "),
        ("[]", 1, "is no mapping; a table has journeys, given, only, cases"),
        ("cases: []", 1, "has no journeys"),
        ("journeys: [cart.yaml]", 1, "has no cases"),
        ("journeys: [cart.yaml]\ncases: 1", 2, "is no list; cases is one"),
        ("journeys: [other.yaml]\ncases: []", 1, "can't be read"),
        ("journeys: 1\ncases: []", 1, "is neither a text of journeys nor a list of files"),
        ("journeys: 'name: x'\ncases: []", 1, "stages: is empty"),
        ("journeys: [cart.yaml]\njourneys: [cart.yaml]\ncases: []", 2, "journeys is given twice"),
        (HEAD + "  - cas: x", 3, "cas is unknown; a case has case, given, only, steps"),
        (HEAD + "  - case: x", 3, "is no case; one has `case`, what it is in words, and `steps`"),
        (HEAD + "  - {case: x, steps: []}", 3, "expects nothing; its steps need a `then`"),
        (HEAD + "  - {case: x, steps: [{when: a, then: []}]}", 3, "has when and then; a step has one of when, after, then"),
        (HEAD + "  - {case: x, steps: [{}]}", 3, "has nothing; a step has one of"),
        (HEAD + "  - case: x\n    steps:\n      - then: a", 5, "is no list; then is one"),
        (HEAD + "  - case: x\n    steps:\n      - after: soon", 5, "'soon' is no duration; one is 3h"),
        (HEAD + "  - case: x\n    steps:\n      - when: {event: a, at: soon}", 5, "is no event: 'soon' is no duration"),
        (HEAD + "  - case: x\n    steps:\n      - when: {event: a, properties: 5}", 5, "is no event: "),
        (HEAD + "  - case: x\n    steps:\n      - when: {event: a, props: {}}", 5, "props is unknown; `when` with event has event, at, properties, event_id"),
        (HEAD + "  - case: x\n    steps:\n      - when: {nap: a}", 5, "does nothing that is known; `when` takes an event's name, or one of event, profile"),
        (HEAD + "  - case: x\n    steps:\n      - when: [a]", 5, "does nothing that is known"),
        (HEAD + "  - case: x\n    steps:\n      - when: {pause: cart, mode: SLEEP}", 5, "the mode is SLEEP; it is one of FREEZE, RUN, DROP"),
        (HEAD + "  - {case: x, given: {start: soon}, steps: []}", 3, "has the start 'soon'"),
        (HEAD + "  - {case: x, given: {attributes: 5}, steps: []}", 3, "has attributes that are no mapping"),
        (HEAD + "  - {case: x, only: [ENTRED], steps: [{then: []}]}", 3, "names ENTRED, which is no kind of transition; there are ENTERED"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(table: Path, text: str, line: int, says: str) -> None:
    table.write_text(text)
    with pytest.raises(TableError) as raised:
        read_table(table)
    assert str(raised.value).startswith(f"{table}:{line}: ")
    assert says in str(raised.value)


def pytest_on(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-q",
        *arguments,
        str(folder),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def test_pytest_runs_tables(table: Path) -> None:
    done = pytest_on(table.parent)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    assert "cart.journey-test.yaml::no cart, no reminder" in pytest_on(table.parent, "--collect-only").stdout


def test_a_failure_shows_both_timelines_with_file_and_line(table: Path) -> None:
    table.write_text(TABLE.replace("through email", "through sms"))
    done = pytest_on(table.parent)
    assert done.returncode == 1
    assert f"{table}:12: one reminder: another timeline than expected (- expected, + happened)" in done.stdout
    assert "  - 3h ACTIVATION_REQUESTED one/2 through sms    (line 12)" in done.stdout
    assert "  + 3h ACTIVATION_REQUESTED one/2 through email" in done.stdout
    assert "Traceback" not in done.stdout
    assert "1 failed, 1 passed" in done.stdout


def test_a_table_that_cant_be_read_is_an_error_of_one_line(table: Path) -> None:
    table.write_text(TABLE.replace("after: 3h", "after: soon"))
    done = pytest_on(table.parent)
    assert done.returncode == 2
    assert f"{table}:6: 'soon' is no duration; one is 3h" in done.stdout
    assert "Traceback" not in done.stdout


def test_another_engine_can_be_named(table: Path) -> None:
    (table.parent / "engines.py").write_text("class Silent:\n    def play(self, case):\n        return []\n")
    done = pytest_on(table.parent, "-o", "journey_engine=engines:Silent", "-o", "pythonpath=.")
    assert "1 failed, 1 passed" in done.stdout


def test_other_yaml_is_no_table(table: Path) -> None:
    table.rename(table.with_name("cart-test.yaml"))
    assert pytest_on(table.parent).returncode == 5


def test_the_plugin_imports_nothing_before_it_is_asked() -> None:
    probe = (
        "import sys, cairn.testing.plugin; assert not {'pytest', 'yaml', 'cairn.journey'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
