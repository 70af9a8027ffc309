"""`cairn simulate`: files in, transitions out, without a server; nothing is run while anything is wrong."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

Run = Callable[..., Result]

CART = """
name: abandoned-cart
type: REAL_TIME
goal: {criteria: event.name == "purchase"}
reentry: {mode: ALWAYS}
stages:
  - name: cart
    entry: event.name == "cart_add"
    steps:
      - wait: {duration: 3h}
      - activation: {channel: email, template: cart-reminder}
"""
VIP = """
name: vip
type: REAL_TIME
stages:
  - name: only
    entry: event.name == "look" && in_segment("vip")
    steps: [{jump: {journey: abandoned-cart}}]
"""
SEGMENT = "segment: {name: vip, criteria: profile.level > 1}\n"


def at(hour: float) -> str:
    return f"2026-01-01T{int(hour):02}:{round(hour % 1 * 60):02}:00Z"


def happens(
    event_id: str, name: str, hour: float, profile_id: str = "ada", **properties: Any
) -> dict[str, Any]:
    return {
        "event_id": event_id,
        "profile_id": profile_id,
        "name": name,
        "occur_time": at(hour),
        "properties": properties,
    }


def changes(hour: float, attributes: dict[str, Any], profile_id: str = "ada", **more: str) -> dict[str, Any]:
    return {"profile_id": profile_id, "time": at(hour), "attributes": attributes, **more}


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., tuple[str, str]]:
    def write(journeys: str, *inputs: dict[str, Any] | str) -> tuple[str, str]:
        journey, events = tmp_path / "journey.yaml", tmp_path / "events.jsonl"
        journey.write_text(journeys)
        events.write_text(
            "".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in inputs)
        )
        return str(journey), str(events)

    return write


Files = Callable[..., tuple[str, str]]


def told(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def kinds(result: Result) -> list[str]:
    return [
        f"{each['profile_id']} {each['time'][11:16]} {each['kind']} {each['step'] or each['stage']}"
        for each in told(result)
    ]


def test_one_object_a_line_with_exactly_these_keys(run: Run, files: Files) -> None:
    lines = told(run("simulate", *files(CART, happens("e1", "cart_add", 9)), "--json"))
    assert lines[2] == {
        "time": "2026-01-01T09:00:00Z",
        "profile_id": "ada",
        "journey": "abandoned-cart",
        "version": 1,
        "kind": "WAIT_STARTED",
        "stage": "cart",
        "step": "cart/1",
        "detail": {"until": "2026-01-01T12:00:00Z"},
    }
    assert [list(each) for each in lines] == [list(lines[2])] * 7
    assert [each["kind"] for each in lines] == [
        "ENTERED",
        "STAGE_ENTERED",
        "WAIT_STARTED",
        "WAIT_ENDED",
        "ACTIVATION_REQUESTED",
        "RESTED",
        "COMPLETED",
    ]
    assert lines[-1]["time"] == "2026-01-25T12:00:00Z"


def test_times_are_to_the_microsecond(run: Run, files: Files) -> None:
    event = {**happens("e1", "cart_add", 9), "occur_time": "2026-01-01T18:00:00.000001+09:00"}
    lines = told(run("simulate", *files(CART, event), "--json"))
    assert [each["time"] for each in lines][2:4] == [
        "2026-01-01T09:00:00.000001Z",
        "2026-01-01T12:00:00.000001Z",
    ]


def test_in_order_of_time_whatever_the_order_of_lines(run: Run, files: Files) -> None:
    inputs = (happens("e2", "purchase", 10), "", happens("e1", "cart_add", 9), "   ")
    assert kinds(run("simulate", *files(CART, *inputs), "--json")) == [
        "ada 09:00 ENTERED cart",
        "ada 09:00 STAGE_ENTERED cart",
        "ada 09:00 WAIT_STARTED cart/1",
        "ada 10:00 WAIT_CANCELED cart/1",
        "ada 10:00 GOAL_ACHIEVED cart",
    ]


def test_the_end_is_included(run: Run, files: Files) -> None:
    given = files(CART, happens("e1", "cart_add", 9), happens("e2", "purchase", 12.5))
    assert (
        kinds(run("simulate", *given, "--json", "--until", "2026-01-01T12:00:00Z"))[-1]
        == "ada 12:00 RESTED cart"
    )
    assert (
        kinds(run("simulate", *given, "--json", "--until", "2026-01-01T11:59:59Z"))[-1]
        == "ada 09:00 WAIT_STARTED cart/1"
    )


def test_an_event_counts_once_and_that_is_told_on_stderr(run: Run, files: Files) -> None:
    given = files(
        CART, happens("e1", "cart_add", 9), happens("e1", "purchase", 10), happens("e1", "cart_add", 9, "bob")
    )
    result = run("simulate", *given, "--json")
    assert [line for line in kinds(result) if "GOAL" in line] == []
    assert "Repeated events that count once: 1." in result.stderr


def test_journeys_and_segments_of_one_file_run_together(run: Run, files: Files) -> None:
    text = "\n---\n".join(
        [CART, VIP, SEGMENT, "connection: {name: log, log: {}}", "template: {name: t, subject: s, text: x}"]
    )
    inputs = (
        changes(8, {"level": 2}),
        happens("e1", "look", 9),
        changes(8, {"level": 1}, "bob"),
        happens("e2", "look", 9, "bob"),
    )
    lines = told(run("simulate", *files(text, *inputs), "--json"))
    assert {each["profile_id"] for each in lines} == {"ada"}
    assert [(each["journey"], each["kind"]) for each in lines][:4] == [
        ("vip", "ENTERED"),
        ("vip", "STAGE_ENTERED"),
        ("vip", "JUMPED"),
        ("abandoned-cart", "ENTERED"),
    ]


def test_what_is_not_in_the_file_is_taken_to_exist_and_told(run: Run, files: Files) -> None:
    given = files(VIP, changes(8, {"level": 2}), happens("e1", "look", 9))
    result = run("simulate", *given, "--json")
    assert told(result) == []
    assert "Segments that are not defined here, and that nobody is in: vip." in result.stderr
    result = run(
        "simulate",
        *files(f"{VIP}\n---\n{SEGMENT}", changes(8, {"level": 2}), happens("e1", "look", 9)),
        "--json",
    )
    assert kinds(result)[-1] == "ada 09:00 JUMPED only/1"
    assert "that jumps would have begun: abandoned-cart." in result.stderr


def test_attributes_merge_null_removes_and_a_time_zone_stays(run: Run, files: Files) -> None:
    text = CART.replace("{duration: 3h}", '{until_time: "09:00"}').replace(
        '"cart_add"', '"cart_add" && profile.b == 2 && !has(profile.a)'
    )
    inputs = (
        changes(1, {"a": 1, "b": 2}, time_zone="Asia/Tokyo"),
        happens("e1", "cart_add", 2),
        changes(3, {"a": None}, time_zone=""),
        {"profile_id": "ada", "time": at(3.5)},
        happens("e2", "cart_add", 4),
    )
    lines = told(run("simulate", *files(text, *inputs), "--json"))
    assert [each["time"] for each in lines if each["kind"] == "ENTERED"] == ["2026-01-01T04:00:00Z"]
    assert lines[2]["detail"] == {"until": "2026-01-02T00:00:00Z"}


def test_numbers_are_doubles(run: Run, files: Files) -> None:
    text = CART.replace('"cart_add"', '"cart_add" && event.properties.n / 2.0 == 1.5')
    assert len(told(run("simulate", *files(text, happens("e1", "cart_add", 9, n=3)), "--json"))) == 7


def test_events_from_stdin(run: Run, files: Files) -> None:
    journey, _ = files(CART)
    text = json.dumps(happens("e1", "cart_add", 9))
    assert len(told(run("simulate", journey, "-", "--json", input=text))) == 7
    assert run("simulate", "-", "-", input=text).exit_code == 2


WRONG = (
    ("no JSON", "JSON is malformed"),
    ("[]", "is no JSON object"),
    ('"text"', "is no JSON object"),
    ("{}", "missing required field `event_id`"),
    ({"event_id": "e"}, "missing required field `profile_id`"),
    ({**happens("e", "n", 1), "occur_time": "soon"}, "Invalid RFC3339 encoded datetime"),
    ({**happens("e", "n", 1), "occur_time": "2026-01-01T00:00:00"}, "Expected `datetime` with a timezone component"),
    ({**happens("e", "n", 1), "occur_time": 1}, "Expected `datetime`, got `int`"),
    ({**happens("e", "n", 1), "properties": []}, "Expected `object`, got `array`"),
    ({**happens("e", "n", 1), "propertys": {}}, "unknown field `propertys`"),
    (happens("", "n", 1), "event_id is empty"),
    (happens("e", "", 1), "name is empty"),
    (happens("e", "n", 1, ""), "profile_id is empty"),
    (happens("e" * 257, "n", 1), "event_id has at most 256 bytes"),
    (happens("é" * 129, "n", 1), "event_id has at most 256 bytes"),
    (changes(1, {}, ""), "profile_id is empty"),
    (changes(1, {}, time_zone="Mars"), "time_zone is 'Mars', which is no IANA time zone; one is Asia/Tokyo"),
    ({**happens("e", "n", 1), "occur_time": "0001-01-01T00:00:00Z"}, "occur_time is not between the years 1970 and 9000"),
    ({**happens("e", "n", 1), "occur_time": "9999-12-31T23:00:00Z"}, "occur_time is not between the years 1970 and 9000"),
    ({"profile_id": "ada", "attributes": {}}, "missing required field `time`"),
    ({"profile_id": "ada", "time": "2026-01-01", "attributes": {}}, "Invalid RFC3339 encoded datetime"),
    ('{"event_id":"e","profile_id":"a","name":"n","occur_time":"2026-01-01T00:00:00Z","properties":{"n":1' + "0" * 400 + "}}", "too large"),
    ("[" * 100_000, "nested too deeply"),
)  # fmt: skip


@pytest.mark.parametrize(("line", "says"), WRONG)
def test_a_wrong_line_is_told_with_its_number_and_nothing_is_run(
    run: Run, files: Files, line: Any, says: str
) -> None:
    given = files(CART, happens("e1", "cart_add", 9), "", line)
    result = run("simulate", *given, "--json")
    assert result.exit_code == 1
    assert result.stdout == ""
    first, finding, *more = result.stderr.splitlines()
    assert first == "cairn: 1 thing is wrong; nothing was run."
    assert finding.startswith(f"  {given[1]}:3: ")
    assert says in finding
    assert more == []


def test_every_wrong_line_is_told_up_to_a_hundred(run: Run, files: Files) -> None:
    result = run("simulate", *files(CART, *["{}"] * 120))
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert lines[0] == "cairn: 120 things are wrong; nothing was run."
    assert len(lines) == 102
    assert lines[-1] == "  and 20 more"


@pytest.mark.parametrize(
    ("journeys", "says"),
    [
        (CART.replace("3h", "soon"), "journey.yaml:10: stages[0].steps[0].wait.duration: is 'soon'"),
        (CART.replace("event.name ==", "event.nme ==", 1), "journey.yaml:4: goal.criteria: line 1, column "),
        (f"{CART}\n---\n{SEGMENT.replace('profile.level', 'event.name')}", "segment.criteria"),
        (f"{CART}\n---\nsegment: {{name: vip, criteria: 'in_segment(\"vip\")'}}", "segment.criteria: goes round"),
        (VIP.replace("abandoned-cart", "vip"), "could go round without a wait"),
        (f"{VIP}\n---\n{CART.replace('- wait: {duration: 3h}', '- jump: {journey: vip}').replace('      - activation: {channel: email, template: cart-reminder}', '')}", "could go round without a wait: "),
        (f"{VIP.replace('cart}', 'cart, stage: till}')}\n---\n{CART}", "names the stage 'till', which abandoned-cart does not have"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_journeys_is_told_with_file_and_line(
    run: Run, files: Files, journeys: str, says: str
) -> None:
    result = run("simulate", *files(journeys, happens("e1", "cart_add", 9)))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "nothing was run." in result.stderr.splitlines()[0]
    assert says in result.stderr


def test_a_file_without_a_journey(run: Run, files: Files) -> None:
    result = run("simulate", *files(SEGMENT))
    assert result.exit_code == 1
    assert result.stderr.endswith("journey.yaml: holds no journey.\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "Missing argument 'JOURNEY.yaml'"),
        (("JOURNEY",), "Missing argument 'EVENTS.jsonl'"),
        (("JOURNEY", "/no/such/file"), "No such file"),
        (("JOURNEY", "EVENTS", "--until", "soon"), "'soon' is no RFC 3339 time"),
    ],
)
def test_wrong_usage(run: Run, files: Files, arguments: tuple[str, ...], says: str) -> None:
    given = dict(zip(("JOURNEY", "EVENTS"), files(CART), strict=True))
    result = run("simulate", *(given.get(each, each) for each in arguments))
    assert result.exit_code == 2
    assert says in result.stderr


def test_for_people_a_table_and_a_summary(run: Run, files: Files) -> None:
    text = f"{CART}\n---\n{VIP}"
    inputs = (
        happens("e1", "cart_add", 9),
        happens("e2", "purchase", 10),
        happens("e3", "cart_add", 9, "bob"),
    )
    result = run("simulate", *files(text, *inputs), "--until", "2026-01-01T13:00:00Z")
    assert result.exit_code == 0
    rows = [" ".join(line.split()) for line in result.stdout.splitlines() if line.strip()]
    assert rows[0] == "time profile journey place kind more"
    assert (
        "2026-01-01 09:00:00.000Z ada abandoned-cart cart/1 WAIT_STARTED until 2026-01-01 12:00:00.000Z"
        in rows
    )
    assert "2026-01-01 12:00:00.000Z bob abandoned-cart cart/2 ACTIVATION_REQUESTED through email" in rows
    assert rows[-4] == "journey entered reached goal activations"
    assert rows[-2:] == ["abandoned-cart 2 cart 2 1 email 1", "vip 0 only 0 0 none"]


def test_a_long_table_is_cut_and_that_is_said(run: Run, files: Files) -> None:
    given = files(CART, *(happens(f"e{n}", "cart_add", 9, f"p{n}") for n in range(5)))
    result = run("simulate", *given, "--limit", "3", "--until", "2026-01-01T10:00:00Z")
    assert result.stdout.count("2026-01-01 09:00:00.000Z") == 3
    assert "12 more lines are not shown" in result.stderr
    assert "abandoned-cart   5" in result.stdout


def test_nothing_happens(run: Run, files: Files) -> None:
    result = run("simulate", *files(CART, happens("e1", "other", 9)))
    assert result.exit_code == 0
    assert result.stdout.startswith("Nothing happens.\n")


def test_one_that_goes_round_is_cut_and_that_is_said(run: Run, files: Files) -> None:
    text = CART.replace(
        "- activation: {channel: email, template: cart-reminder}", "- jump: {journey: abandoned-cart}"
    )
    result = run("simulate", *files(text, happens("e1", "cart_add", 9)), "--json")
    assert result.exit_code == 0
    assert "Stopped long after the last input, though more would happen: ada." in result.stderr


def test_data_does_not_steer_the_terminal(run: Run, files: Files) -> None:
    result = run("simulate", *files(CART, happens("e1", "cart_add", 9, "a\x1b[31mb")))
    assert "\x1b[31m" not in result.stdout


def test_it_needs_no_service(files: Files) -> None:
    given = files(CART, happens("e1", "cart_add", 9))
    probe = (
        "import sys, cairn.cli.main as m\n"
        f"try: m.cli(['simulate', *{given!r}, '--json'])\n"
        "except SystemExit as e: assert not e.code\n"
        "heavy = {'asyncpg', 'aiohttp', 'pydantic', 'cairn.runtime.server', 'cairn.cli.connect'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 7


# Batch journeys

WIN_BACK = """
name: win-back
type: BATCH
audience: has(profile.email)
SCHEDULE
stages:
  - name: only
    entry: count("purchase") >= 1 && count("purchase", duration("1h")) == 0
    steps: [{activation: {channel: log}}, {wait: {duration: 2h}}]
"""
BUYER = (changes(8, {"email": "a@example.com"}), happens("e1", "purchase", 8.25), changes(8, {}, "ben"))


def win_back(schedule: str = "") -> str:
    return WIN_BACK.replace("SCHEDULE", f"schedule: {schedule}" if schedule else "")


def moves(result: Result) -> list[str]:
    return [f"{each['time'][11:16]} {each['profile_id']} {each['kind']}" for each in told(result)]


def test_a_batch_journey_runs_by_its_schedule_from_the_first_line_to_the_end(run: Run, files: Files) -> None:
    paths = files(win_back("{cron: '0 * * * *'}"), *BUYER)
    result = run("simulate", *paths, "--until", at(13), "--json")
    begun = ["ENTERED", "STAGE_ENTERED", "ACTIVATION_REQUESTED", "WAIT_STARTED"]
    ended = ["WAIT_ENDED", "RESTED", "COMPLETED"]
    assert moves(result) == [f"10:00 ada {each}" for each in begun] + [f"12:00 ada {each}" for each in ended]
    assert "win-back ran by its schedule up to 2026-01-01 13:00:00.000Z, 6 times" in result.stderr


def test_without_an_end_the_last_line_is_the_end(run: Run, files: Files) -> None:
    paths = files(win_back("{cron: '0 * * * *'}"), *BUYER, changes(10.5, {"a": 1}))
    result = run("simulate", *paths, "--json")
    assert [each["time"] for each in told(result)] == [at(10)] * 4
    assert "up to 2026-01-01 10:30:00.000Z, 3 times; --until goes on" in result.stderr


def test_a_batch_journey_runs_at_given_times_alone(run: Run, files: Files) -> None:
    paths = files(win_back("{cron: '0 * * * *'}"), *BUYER)
    result = run("simulate", *paths, "--run-at", at(9.5), "--run-at", at(8), "--json")
    assert [each["time"] for each in told(result)] == [at(9.5)] * 4
    assert "win-back" not in result.stderr


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ("", "win-back did not run: it has no schedule; --run-at TIME says when it runs."),
        ("{cron: 0 6 * * *}", "win-back did not run: its schedule is not due by 2026-01-01 08:15:00.000Z"),
    ],
)
def test_why_a_batch_journey_did_not_run(run: Run, files: Files, schedule: str, said: str) -> None:
    result = run("simulate", *files(win_back(schedule), *BUYER))
    assert result.exit_code == 0
    assert "Nothing happens." in result.stdout
    assert said in " ".join(result.stderr.split())


def test_a_time_of_a_run_that_is_none_is_told(run: Run, files: Files) -> None:
    result = run("simulate", *files(win_back(), *BUYER), "--run-at", "tomorrow")
    assert result.exit_code == 2
    assert "Invalid value for --run-at" in result.stderr
