"""What is refused of a schedule, all at once and by its field; pages that begin where the last one ended."""

import pytest

from cairn.api.scheduler.v1 import scheduler_pb2 as pb
from cairn.runtime.errors import CairnError
from cairn.scheduler import wire_schedules as wire
from cairn.scheduler.schedule import StoredSchedule

NOW_US = 1_772_445_600_000_000


def made(**changes: object) -> pb.PutScheduleRequest:
    fields = {"name": "schedules/daily", "cron": "0 6 * * *", "time_zone": "Asia/Tokyo", **changes}
    return pb.PutScheduleRequest(schedule=pb.Schedule(**fields))


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"name": ""}, "name", "is missing"),
        ({"name": "daily"}, "name", "'daily' is not schedules/{id}"),
        ({"name": "schedules/"}, "name", "is not schedules/{id}"),
        ({"name": "schedules/a/b"}, "name", "is not schedules/{id}"),
        ({"name": "schedules/ä"}, "name", "is not schedules/{id}"),
        ({"name": "schedules/a\n"}, "name", "is not schedules/{id}"),
        ({"name": "schedules/" + "x" * 129}, "name", "1 to 128 letters"),
        ({"cron": ""}, "cron", "five fields"),
        ({"cron": "0 6 * *"}, "cron", "five fields"),
        ({"cron": "0 24 * * *"}, "cron", "hour"),
        ({"cron": "0 0 30 2 *"}, "cron", "never"),
        ({"time_zone": "Moon/Base"}, "time_zone", "'Moon/Base'"),
        ({"time_zone": "../etc/passwd"}, "time_zone", "'../etc/passwd'"),
        ({"payload": b"x" * 1025}, "payload", "has 1,025 bytes; at most 1,024 are taken"),
    ],
)
def test_a_malformed_schedule_is_refused_by_its_field(
    changes: dict[str, object], field: str, words: str
) -> None:
    with pytest.raises(CairnError) as refused:
        wire.parse_schedule(made(**changes), NOW_US)
    (violation,) = refused.value.violations
    assert violation.field == f"schedule.{field}"
    assert words in violation.description


def test_what_is_taken_is_kept_in_one_way_of_writing() -> None:
    schedule, next_us = wire.parse_schedule(
        made(cron="  0 6  * * *", time_zone="", payload=b"x" * 1024), NOW_US
    )
    assert (schedule.schedule_id, schedule.cron, schedule.time_zone) == ("daily", "0 6 * * *", "UTC")
    assert NOW_US < next_us <= NOW_US + 86_400_000_000


@pytest.mark.parametrize(
    ("name", "request_id", "fields"),
    [
        ("", "", ["name", "request_id"]),
        ("schedules/a", "", ["request_id"]),
        ("schedules/a", "é" * 65, ["request_id"]),
        ("schedules/a", "a\x00", ["request_id"]),
        ("a", "r", ["name"]),
    ],
)
def test_a_malformed_request_to_run_is_refused(name: str, request_id: str, fields: list[str]) -> None:
    with pytest.raises(CairnError) as refused:
        wire.parse_run(pb.RunScheduleRequest(name=name, request_id=request_id))
    assert [violation.field for violation in refused.value.violations] == fields


@pytest.mark.parametrize(
    "request_",
    [
        pb.ListSchedulesRequest(page_size=-1),
        pb.ListSchedulesRequest(page_size=1001),
        pb.ListSchedulesRequest(page_token="?"),
        pb.ListSchedulesRequest(page_token="YS9i"),
    ],
)
def test_a_page_that_makes_no_sense_is_refused(request_: pb.ListSchedulesRequest) -> None:
    with pytest.raises(CairnError) as refused:
        wire.parse_page(request_)
    assert refused.value.violations


def test_a_page_goes_on_where_the_last_one_ended() -> None:
    found = [
        StoredSchedule(each, "* * * * *", "UTC", False, b"", 1, None, False, None, None) for each in "abc"
    ]
    page = wire.render_page(found, 2)
    assert [each.name for each in page.schedules] == ["schedules/a", "schedules/b"]
    assert wire.parse_page(pb.ListSchedulesRequest(page_token=page.next_page_token)) == (100, "b")
    assert not wire.render_page(found, 3).next_page_token
