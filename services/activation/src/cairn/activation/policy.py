"""Owns the rules that operators set, a connection's own and the sending policy: how they must look, and the policy's copy in memory."""

import hashlib
import time
from collections.abc import Sequence

from google.protobuf import json_format

from cairn.activation import quiet, store_resources
from cairn.activation.channels.findings import Findings
from cairn.activation.model import Resource
from cairn.activation.rules import read_quiet_hours
from cairn.activation.store import Database
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.clock import from_duration
from cairn.runtime.errors import FieldViolation

POLICIES = "policies"
POLICY_ID = "default"
"""There is one policy, and this is its id in the table of resources."""

MAX_CAPS = 10
MAX_CAP_COUNT = 1_000
MAX_RATE_COUNT = 1_000_000

_MILLISECOND_US = 1_000
_MINUTE_US = 60_000_000
_DAY_US = 86_400_000_000
_LONGEST_CAP_US = 60 * _DAY_US

_FRESH_SECONDS = 1.0


def check_rules(connection: pb.Connection, findings: Findings) -> None:
    """Finds what is wrong with a connection's rate limit, quiet hours and frequency caps."""
    if connection.HasField("rate_limit"):
        limit = connection.rate_limit
        if not 1 <= limit.count <= MAX_RATE_COUNT:
            findings.add("rate_limit.count", f"is {limit.count:,}; 1 to {MAX_RATE_COUNT:,} can leave")
        if not _MILLISECOND_US <= from_duration(limit.period) <= _DAY_US:
            findings.add("rate_limit.period", "is a time of 0.001s to 86400s")
    if connection.HasField("quiet_hours"):
        _check_quiet_hours("quiet_hours", connection.quiet_hours, findings)
    _check_caps("frequency_caps", connection.frequency_caps, findings)


def check_policy(policy: pb.SendingPolicy) -> list[FieldViolation]:
    """All that is wrong with a sending policy."""
    findings = Findings("policy")
    if policy.HasField("quiet_hours"):
        _check_quiet_hours("quiet_hours", policy.quiet_hours, findings)
    _check_caps("frequency_caps", policy.frequency_caps, findings)
    _check_caps("journey_frequency_caps", policy.journey_frequency_caps, findings)
    return findings.violations


def _check_quiet_hours(field: str, message: pb.QuietHours, findings: Findings) -> None:
    for name in ("start", "end"):
        if quiet.parse_clock(getattr(message, name)) is None:
            findings.add(f"{field}.{name}", "is a time of the day, 00:00 to 23:59")
    if message.start == message.end and quiet.parse_clock(message.end) is not None:
        findings.add(f"{field}.end", "is the start; quiet hours that never end would hold everything")
    zone = message.fallback_time_zone
    if zone and quiet.find_zone(zone) is None:
        findings.add(f"{field}.fallback_time_zone", "is no IANA time zone, such as Europe/Berlin")
    hours = read_quiet_hours(message)
    if hours is not None and not zone and hours.length_minutes > quiet.LONGEST_CAREFUL_MINUTES:
        findings.add(
            f"{field}.fallback_time_zone",
            f"is required for quiet hours longer than {quiet.LONGEST_CAREFUL_MINUTES} minutes: somewhere between UTC-11 and UTC+12 "
            "they always last, so that profiles without a time zone would never get anything",
        )


def _check_caps(field: str, caps: Sequence[pb.FrequencyCap], findings: Findings) -> None:
    if len(caps) > MAX_CAPS:
        findings.add(field, f"has {len(caps)} caps; at most {MAX_CAPS} can hold")
    for index, cap in enumerate(caps[:MAX_CAPS]):
        if not 1 <= cap.count <= MAX_CAP_COUNT:
            findings.add(
                f"{field}[{index}].count", f"is {cap.count:,}; 1 to {MAX_CAP_COUNT:,} can be counted"
            )
        if not _MINUTE_US <= from_duration(cap.period) <= _LONGEST_CAP_US:
            findings.add(f"{field}[{index}].period", "is a time of 60s to 5184000s (60 days)")


def to_resource(policy: pb.SendingPolicy, now: int) -> Resource:
    """The row of a policy that was checked. Its etag is made from what it says, so the same twice is no change."""
    bare = pb.SendingPolicy()
    bare.CopyFrom(policy)
    bare.ClearField("etag")
    bare.ClearField("update_time")
    body = json_format.MessageToJson(bare, indent=None, sort_keys=True)
    return Resource(POLICIES, POLICY_ID, body, hashlib.sha256(body.encode()).hexdigest()[:16], now)


def read_policy(row: Resource) -> pb.SendingPolicy:
    """The policy of a row that has its body."""
    policy = json_format.Parse(row.body, pb.SendingPolicy(), ignore_unknown_fields=True)
    policy.etag = row.etag
    return policy


class Policies:
    """The sending policy as this process knows it: a change holds at once where it was made, elsewhere within a second."""

    def __init__(self) -> None:
        self._policy = pb.SendingPolicy()
        self._fresh_until = 0.0
        self._changes = 0

    async def find(self, database: Database) -> pb.SendingPolicy:
        """The policy, empty when there is none; no statement when it was looked up a moment ago."""
        now = time.monotonic()
        if now < self._fresh_until:
            return self._policy
        changes = self._changes
        rows = await store_resources.look_up(database, [(POLICIES, POLICY_ID)], [self._policy.etag])
        policy = self._policy
        if not rows:
            policy = pb.SendingPolicy()
        elif rows[0].etag != policy.etag:
            policy = read_policy(rows[0])
        if changes == self._changes:
            self._policy, self._fresh_until = policy, now + _FRESH_SECONDS
        return policy

    def forget(self) -> None:
        """It was changed: whoever asks next looks it up."""
        self._changes += 1
        self._fresh_until = 0.0
