"""Reading definition files: every violation of every file at once, each with its file and line."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result

from cairn.api.definition.v1.journey_pb2 import Journey, Segment
from cairn.cli.apply import _in_order
from cairn.cli.documents import read_sources, write_document, write_journey
from cairn.cli.failures import CommandError
from cairn.journey.document import read_documents

EXAMPLES = Path(__file__).resolve().parents[3] / "deploy" / "examples"

GOOD = """\
name: welcome
type: REAL_TIME
stages:
  - name: signed-up
    entry: event.name == "newsletter_signup"
    steps:
      - wait: {duration: 1h}
      - activation: {channel: email, template: welcome}
"""


EVERYTHING = """\
name: trial
purpose: {kind: CUSTOM, description: Turn a trial into a subscription}
type: REAL_TIME
key: event.properties.account_id
time_zone: Asia/Tokyo
reentry: {mode: ALWAYS, cooldown: 7d, max_entries: 3, while_active: RESTART}
skip_stages: false
goal: {criteria: event.name == "subscribe", target: {journey: loyalty, stage: thanks}}
exit_criteria:
  - {name: closed, criteria: event.name == "account_closed"}
  - {name: stale, stale: 24d}
stages:
  - name: first-steps
    entry: event.name == "signup" && in_segment("vip")
    milestone: event.name == "project_created"
    exit_criteria:
      - {name: gave-up, criteria: event.name == "uninstall", to: win-back}
    steps:
      - {name: hello, activation: {channel: email, template: welcome}}
      - wait: {until_time: "10:30", weekdays: [MON, TUE, FRI]}
      - wait: {until: "2027-01-31T09:00:00.250Z"}
      - wait:
          condition: event.name == "login"
          timeout: 3d
          met: [{activation: {channel: email, template: tips}}]
          timed_out: [{activation: {channel: email, template: nudge}}]
  - name: active
    milestone: count("login", duration("168h")) >= 5
    steps:
      - decision:
          branches:
            - {name: big, criteria: profile.seats > 50, steps: [{activation: {channel: crm-webhook}}]}
            - name: small
              criteria: profile.seats <= 5
              steps: [{experiment: {variants: [{name: a, percent: 100, steps: [{end: {}}]}, {name: none, percent: 0}]}}]
          otherwise: [{activation: {channel: email, template: upgrade}}]
  - name: win-back
    steps:
      - {name: away, jump: {journey: loyalty, stage: thanks}}
"""


def findings(*files: Path) -> tuple[str, ...]:
    with pytest.raises(CommandError) as caught:
        read_sources(map(str, files))
    return caught.value.details


def test_all_violations_of_all_files_are_told_with_file_and_line(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(GOOD.replace("event.name", "event.nam") + "---\nnam: x\n")
    second.write_text(
        "# a remark\n"
        + GOOD.replace("name: welcome", "name: other").replace("email", "E-Mail").replace("1h", "0s")
    )
    told = findings(first, second)
    assert [line.split(": ")[:2] for line in told] == [
        [f"{first}:10", "nam"],
        [f"{first}:10", "type"],
        [f"{first}:10", "stages"],
        [f"{first}:5", "stages[0].entry"],
        [f"{second}:8", "stages[0].steps[0].wait.duration"],
        [f"{second}:9", "stages[0].steps[1].activation.channel"],
    ]


def test_a_violation_of_what_is_not_written_down_has_the_line_of_what_it_belongs_to(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(GOOD + "  - name: second\n")
    assert any(line.startswith(f"{file}:4: stages[0].milestone: ") for line in findings(file))


def test_json_names_have_lines_too(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(GOOD + "exitCriteria:\n  - {name: stale,\n     stale: 25d}\n")
    assert [line.split(": ")[0] for line in findings(file)] == [f"{file}:11"]


def test_a_document_given_twice_is_told_with_both_places(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"{GOOD}---\n{GOOD}")
    assert findings(file) == (f"{file}:10: journey welcome is given twice, first at {file}:1",)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"\xff\xfe", "is not UTF-8 text"), (b"a: [", "is not YAML"), (b"- a", "is a list")],
)
def test_what_is_no_document_is_told(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(content)
    with pytest.raises(CommandError) as caught:
        read_sources([str(file)])
    assert says in "\n".join((caught.value.message, *caught.value.details))


def test_a_folder_stands_for_its_yaml_files(tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text(GOOD)
    (tmp_path / "a.yaml").write_text("connection: {name: log, log: {}}")
    (tmp_path / "notes.txt").write_text("nothing")
    assert [(each.document.kind, each.name) for each in read_sources([str(tmp_path)])] == [
        ("connection", "log"),
        ("journey", "welcome"),
    ]


def test_a_folder_without_yaml_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"there is no \.yaml file"):
        read_sources([str(tmp_path)])


def test_the_examples_are_valid_and_complete() -> None:
    folders = (EXAMPLES, EXAMPLES / "audience", EXAMPLES / "batch", EXAMPLES / "destinations")
    sources = read_sources(map(str, folders))
    assert {(each.document.kind, each.name) for each in sources} == {
        ("connection", "email"),
        ("connection", "log"),
        ("connection", "meta-audience"),
        ("connection", "newsletter"),
        ("connection", "receipts"),
        ("connection", "campaigns"),
        ("connection", "google-customers"),
        ("connection", "tiktok-customers"),
        ("connection", "linkedin-customers"),
        ("connection", "crm"),
        ("policy", "policy"),
        ("template", "welcome"),
        ("template", "cart-reminder"),
        ("template", "come-back"),
        ("template", "spring-sale"),
        ("journey", "spring-sale"),
        ("segment", "lapsed-buyers"),
        ("journey", "win-back"),
        ("journey", "welcome"),
        ("journey", "abandoned-cart"),
        ("journey", "retargeting"),
    }


@pytest.mark.parametrize(
    "file", ["welcome.yaml", "abandoned-cart.yaml", "audience/retargeting.yaml", "batch/win-back.yaml"]
)
def test_a_journey_is_written_as_people_write_it_and_read_back_the_same(file: str) -> None:
    (source,) = read_sources([str(EXAMPLES / file)])
    journey = source.document.message
    assert isinstance(journey, Journey)
    stored = Journey()
    stored.CopyFrom(journey)
    stored.name = f"journeys/{journey.name}"
    stored.etag, stored.latest_version = "abc", 3
    written = write_journey(stored)
    (document,), violations = read_documents(written)
    assert (document.message, violations) == (journey, ())
    assert "JOURNEY_TYPE" not in written
    assert yaml.safe_load(written).keys() <= yaml.safe_load((EXAMPLES / file).read_text()).keys()


def test_everything_that_a_journey_can_say_is_written_and_read_back_the_same() -> None:
    (document,), violations = read_documents(EVERYTHING)
    assert violations == ()
    journey = document.message
    assert isinstance(journey, Journey)
    stored = Journey()
    stored.CopyFrom(journey)
    stored.name, stored.latest_version = "journeys/trial", 3
    stored.pause.mode = 1
    stored.goal.target.journey = "journeys/loyalty"
    stored.stages[2].steps[0].jump.journey = "journeys/loyalty"
    written = write_journey(stored)
    (again,), violations = read_documents(written)
    assert (again.message, violations) == (journey, ())
    given, out = yaml.safe_load(EVERYTHING), yaml.safe_load(written)
    assert out == given


def test_a_segment_is_written_as_people_write_it_and_read_back_the_same() -> None:
    stored = Segment(name="segments/vip", criteria="profile.a", description="Words", etag="x")
    stored.update_time.seconds = 7
    written = write_document("segment", stored)
    assert yaml.safe_load(written) == {
        "segment": {"name": "vip", "criteria": "profile.a", "description": "Words"}
    }
    (document,), violations = read_documents(written)
    assert (document.kind, violations) == ("segment", ())
    assert document.message == Segment(name="vip", criteria="profile.a", description="Words")


def test_a_wrong_segment_is_told_with_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text('segment:\n  name: VIP\n  criteria: event.name == "x"\n---\nsegment: {name: b}\n')
    assert [line.split(": ")[:2] for line in findings(file)] == [
        [f"{file}:2", "segment.name"],
        [f"{file}:3", "segment.criteria"],
        [f"{file}:5", "segment.criteria"],
    ]


def test_segments_of_all_files_that_lead_back_to_themselves_are_told(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text('segment:\n  name: a\n  criteria: in_segment("b")\n')
    second.write_text(
        'segment:\n  name: b\n  criteria: in_segment("a") || in_segment("elsewhere")\n'
        '---\nsegment: {name: c, criteria: in_segment("a")}\n'
    )
    assert [(line.split(": ")[0], "goes round" in line) for line in findings(first, second)] == [
        (f"{first}:3", True),
        (f"{second}:3", True),
    ]


def jumping(name: str, to: str, stage: str = "signed-up") -> str:
    lines = GOOD.splitlines()[:5]
    step = f"    steps: [{{jump: {{journey: {to}, stage: {stage}}}}}]"
    return "\n".join([*lines, step, ""]).replace("name: welcome", f"name: {name}")


def test_journeys_of_all_files_are_checked_against_each_other(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(jumping("a", "welcome", "none") + "---\n" + jumping("b", "elsewhere", "any"))
    second.write_text(GOOD + "---\n" + jumping("c", "d") + "---\n" + jumping("d", "c"))
    told = findings(first, second)
    assert [line.split(": ")[:2] for line in told] == [
        [f"{first}:6", "stages[0].steps[0].jump.stage"],
        [f"{second}:15", "stages[0].steps[0].jump"],
        [f"{second}:22", "stages[0].steps[0].jump"],
    ]
    assert "without a wait" in told[1]


def test_what_is_named_is_sent_before_what_names_it(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    segments = {"top": "mid", "mid": "base", "base": "elsewhere", "apart": "top"}
    documents = [
        f'segment: {{name: {name}, criteria: in_segment("{named}")}}' for name, named in segments.items()
    ]
    file.write_text("\n---\n".join([GOOD, *documents, "connection: {name: log, log: {}}"]))
    order = [each.name for each in _in_order(read_sources([str(file)]))]
    assert order == ["log", "base", "mid", "top", "apart", "welcome"]


@pytest.mark.parametrize(
    ("seconds", "nanos", "text"),
    [
        (10_800, 0, "3h"),
        (2_073_600, 0, "24d"),
        (5_400, 0, "90m"),
        (61, 0, "61s"),
        (0, 500_000_000, "500ms"),
        (0, 1_000, "0.000001s"),
    ],
)
def test_durations_are_written_in_the_largest_unit(seconds: int, nanos: int, text: str) -> None:
    journey = Journey(name="x")
    journey.reentry.cooldown.seconds, journey.reentry.cooldown.nanos = seconds, nanos
    assert f"cooldown: {text}\n" in write_journey(journey)


def test_validate_reads_stdin_and_answers_programs(run: Callable[..., Result]) -> None:
    result = run("journeys", "validate", "--offline", "--json", "-f", "-", input=GOOD)
    assert result.exit_code == 0
    assert result.stdout == '{"kind":"journey","name":"welcome","file":"<stdin>","valid":true}\n'


def test_nothing_is_sent_while_a_file_is_wrong(run: Callable[..., Result]) -> None:
    # No service listens there: had the command tried to send, it would say so instead.
    result = run(
        "apply", "--definition-address", "127.0.0.1:1", "-f", "-", input=GOOD.replace("1h", "1 hour")
    )
    assert result.exit_code == 1
    assert result.stderr.startswith("cairn: 1 thing is wrong; nothing was sent.\n  <stdin>:7: ")


def test_a_segment_that_no_run_can_ask_for_is_told_where_a_batch_journey_uses_it(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "name: a\ntype: BATCH\naudience: in_segment('old')\nstages: [{name: s, entry: 'true'}]\n---\n"
        "segment: {name: old, criteria: profile.age * 2.0 > 3.0}\n"
    )
    with pytest.raises(CommandError) as caught:
        read_sources([str(tmp_path)])
    (detail,) = caught.value.details
    assert f"{tmp_path / 'a.yaml'}:3: audience: uses the segment 'old', for which no run" in detail
