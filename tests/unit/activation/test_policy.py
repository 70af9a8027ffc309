"""What operators may set: every violation at once, each with its field."""

from typing import Any

import pytest

from cairn.activation.channels.findings import Findings
from cairn.activation.policy import check_policy, check_rules, read_policy, to_resource
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.clock import to_duration

MINUTE_US = 60_000_000
DAY_US = 86_400_000_000


def cap(count: int = 1, period_us: int = DAY_US) -> pb.FrequencyCap:
    return pb.FrequencyCap(count=count, period=to_duration(period_us))


def quiet(start: str = "21:00", end: str = "08:00", zone: str = "Europe/Berlin") -> pb.QuietHours:
    return pb.QuietHours(start=start, end=end, fallback_time_zone=zone)


def rate(count: int, period_us: int) -> pb.RateLimit:
    return pb.RateLimit(count=count, period=to_duration(period_us))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"rate_limit": rate(1, 1_000)},
        {"rate_limit": rate(1_000_000, DAY_US)},
        {"frequency_caps": [cap(1, MINUTE_US), cap(1_000, 60 * DAY_US)]},
        {"frequency_caps": [cap()] * 10},
        {"quiet_hours": quiet()},
        {"quiet_hours": quiet("00:00", "23:59")},
        {"quiet_hours": quiet("12:00", "12:59", zone="")},
        {"quiet_hours": quiet("23:30", "00:29", zone="")},
    ],
)
def test_what_may_be_set(fields: dict[str, Any]) -> None:
    findings = Findings("connection")
    check_rules(pb.Connection(**fields), findings)
    assert findings.violations == []


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"rate_limit": pb.RateLimit()}, ["rate_limit.count", "rate_limit.period"]),
        ({"rate_limit": rate(-1, 999)}, ["rate_limit.count", "rate_limit.period"]),
        ({"rate_limit": rate(1_000_001, DAY_US + 1)}, ["rate_limit.count", "rate_limit.period"]),
        (
            {"frequency_caps": [cap(0, MINUTE_US - 1)]},
            ["frequency_caps[0].count", "frequency_caps[0].period"],
        ),
        ({"frequency_caps": [cap(), cap(1_001)]}, ["frequency_caps[1].count"]),
        ({"frequency_caps": [cap(1, 60 * DAY_US + 1)]}, ["frequency_caps[0].period"]),
        ({"frequency_caps": [cap()] * 11}, ["frequency_caps"]),
        ({"quiet_hours": pb.QuietHours()}, ["quiet_hours.start", "quiet_hours.end"]),
        ({"quiet_hours": quiet("8:00", "24:00")}, ["quiet_hours.start", "quiet_hours.end"]),
        ({"quiet_hours": quiet("08:00", "08:00")}, ["quiet_hours.end"]),
        ({"quiet_hours": quiet(zone="Berlin")}, ["quiet_hours.fallback_time_zone"]),
        ({"quiet_hours": quiet(zone="")}, ["quiet_hours.fallback_time_zone"]),
        ({"quiet_hours": quiet("12:00", "13:00", zone="")}, ["quiet_hours.fallback_time_zone"]),
    ],
)
def test_what_may_not(fields: dict[str, Any], wrong: list[str]) -> None:
    findings = Findings("connection")
    check_rules(pb.Connection(**fields), findings)
    assert [violation.field for violation in findings.violations] == [f"connection.{each}" for each in wrong]


def test_all_that_is_wrong_with_a_policy() -> None:
    policy = pb.SendingPolicy(
        frequency_caps=[cap(0)], journey_frequency_caps=[cap(1, 1)], quiet_hours=quiet("x", "y", "z")
    )
    assert [violation.field for violation in check_policy(policy)] == [
        "policy.quiet_hours.start",
        "policy.quiet_hours.end",
        "policy.quiet_hours.fallback_time_zone",
        "policy.frequency_caps[0].count",
        "policy.journey_frequency_caps[0].period",
    ]


def test_a_policy_is_what_was_put_and_the_same_twice_is_no_change() -> None:
    policy = pb.SendingPolicy(frequency_caps=[cap(3)], quiet_hours=quiet())
    row = to_resource(policy, 1)
    assert (row.kind, row.id, row.update_us) == ("policies", "default", 1)
    saved = read_policy(row)
    assert saved.etag == row.etag != ""
    assert to_resource(saved, 2).etag == row.etag
    saved.etag = ""
    assert saved == policy
    assert to_resource(pb.SendingPolicy(), 1).etag != row.etag
