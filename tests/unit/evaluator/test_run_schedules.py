"""What has to be told to the Scheduler so that it has the schedules of the live batch journeys, and no others of theirs."""

import pytest

from cairn.api.scheduler.v1 import scheduler_pb2 as pb
from cairn.evaluator.schedules import changes, journey_of_schedule, schedule_name
from cairn.journey.document import read_documents
from cairn.journey.live import LiveJourney, LiveJourneys
from cairn.journey.parse import parse_journey
from cairn.journey.plan import Plan, compile_plan


def plan(version: int = 1, schedule: str = '{cron: "0 6 * * *"}', kind: str = "BATCH") -> Plan:
    text = f"name: daily\ntype: {kind}\nstages: [{{name: one, entry: profile.a == true}}]\n"
    if kind == "BATCH":
        text += 'audience: "true"\n'
    if schedule:
        text += f"schedule: {schedule}\n"
    (document,), wrong = read_documents(text)
    assert not wrong
    journey, violations = parse_journey(document.message)
    assert journey is not None, violations
    return compile_plan(journey, version)


def kept(**fields: object) -> dict[str, pb.Schedule]:
    schedule = pb.Schedule(
        **{
            "name": "schedules/journey.daily",
            "cron": "0 6 * * *",
            "time_zone": "UTC",
            "payload": b'{"version":1}',
        }
        | fields
    )
    return {schedule.name: schedule}


PUT, DELETE, NOTHING = "put", "delete", "nothing"


@pytest.mark.parametrize(
    ("journey", "there", "told"),
    [
        pytest.param(LiveJourney({1: plan()}), {}, PUT, id="new"),
        pytest.param(LiveJourney({1: plan()}), kept(), NOTHING, id="as it should be"),
        pytest.param(LiveJourney({1: plan(), 2: plan(2)}), kept(), NOTHING, id="a version that changes nothing"),
        pytest.param(LiveJourney({1: plan()}), kept(cron="1 6 * * *"), PUT, id="another time"),
        pytest.param(LiveJourney({1: plan()}), kept(time_zone="Asia/Tokyo"), PUT, id="another zone"),
        pytest.param(LiveJourney({1: plan()}), kept(skip_missed=True), PUT, id="another rule"),
        pytest.param(LiveJourney({1: plan()}), kept(payload=b"x", cron="1 1 1 1 1"), PUT, id="not ours to read"),
        pytest.param(
            LiveJourney({1: plan()}), kept(payload=b'{"version":2}', cron="1 1 1 1 1"), NOTHING, id="of a later version"
        ),
        pytest.param(LiveJourney({1: plan()}, end_us=5), kept(), DELETE, id="ended"),
        pytest.param(LiveJourney({1: plan()}, end_us=5), {}, NOTHING, id="ended long ago"),
        pytest.param(LiveJourney({1: plan(), 2: plan(2, "")}), kept(), DELETE, id="a version without one"),
        pytest.param(LiveJourney({1: plan(kind="REAL_TIME", schedule="")}), {}, NOTHING, id="real-time"),
    ],
)  # fmt: skip
def test_what_is_told(journey, there, told) -> None:
    found = changes(LiveJourneys([journey]), there)
    (name,) = found.deletes or [each.name for each in found.puts] or [""]
    assert (PUT if found.puts else DELETE if found.deletes else NOTHING) == told
    assert name in ("", "schedules/journey.daily")
    if found.puts:
        (put,) = found.puts
        assert (put.cron, put.time_zone, put.skip_missed) == ("0 6 * * *", "UTC", False)
        assert not changes(LiveJourneys([journey]), {put.name: put}).puts


def test_what_belongs_to_nobody_known_stays() -> None:
    found = changes(LiveJourneys(), kept())
    assert not found.puts
    assert not found.deletes


def test_a_schedule_is_named_after_its_journey() -> None:
    assert journey_of_schedule(schedule_name("daily")) == "daily"
    assert journey_of_schedule("schedules/daily") == ""
