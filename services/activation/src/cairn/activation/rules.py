"""Owns which rules hold for what leaves through a connection, and what they make of one delivery. Pure: all facts are arguments.

People are written to under all of them. What writes to nobody (an audience, a webhook, a log) is under those that its own connection
declares. Consent and caps keep nobody in an audience: a removal is never refused. A paused journey holds it back only behind what waits
before it, which it must not overtake; quiet hours hold it like all else.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from cairn.activation import quiet
from cairn.activation.caps import Cap, Scope, Tally
from cairn.activation.ledger import Fate, Outcome
from cairn.activation.model import Claim
from cairn.activation.quiet import QuietHours
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.definition.v1 import journey_pb2
from cairn.runtime.clock import from_duration

_SHORTEST_HOLD_US = 5_000_000
_LONGEST_HOLD_US = 300_000_000


class Reason(StrEnum):
    """Why something did not leave: what the metrics count."""

    WITHDRAWN = "withdrawn"
    ERASED = "erased"
    PAUSED = "journey_paused"
    SUPPRESSED = "suppressed"
    CONSENT = "consent"
    CAP = "frequency_cap"
    QUIET = "quiet_hours"


PAUSED_DETAIL = "held: its journey is paused"
"""The detail of what waits for its journey to be resumed."""

QUIET_DETAIL = "held: quiet hours"
"""The detail of what waits for the end of quiet hours."""

_SUPPRESSED_DETAILS: Mapping[int, str] = MappingProxyType(
    {
        pb.SUPPRESSION_REASON_HARD_BOUNCE: "suppressed: the address bounced for good",
        pb.SUPPRESSION_REASON_COMPLAINT: "suppressed: a complaint came from the address",
        pb.SUPPRESSION_REASON_UNSUBSCRIBE: "suppressed: the address is unsubscribed",
        pb.SUPPRESSION_REASON_MANUAL: "suppressed: by hand",
    }
)
_REFUSED_DETAIL = "no consent: it was refused"
_REQUIRED_DETAIL = "no consent: the connection requires one, and none was given"


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for one connection. `ignored_suppressions` are the reasons that do not stop its mail."""

    asks_suppressions: bool
    ignored_suppressions: frozenset[int]
    asks_consent: bool
    requires_consent: bool
    caps: tuple[Cap, ...]
    quiet_hours: QuietHours | None

    @property
    def asks_nothing(self) -> bool:
        """Whether nothing but a paused journey could stop a delivery."""
        return not (self.asks_suppressions or self.asks_consent or self.caps or self.quiet_hours)

    @property
    def counts_people(self) -> bool:
        """Whether a cap counts what other connections send."""
        return any(cap.scope is not Scope.CONNECTION for cap in self.caps)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a delivery does not leave now, and what it comes to: REFUSED, or HELD until a time."""

    reason: Reason
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one delivery. `paused_us` is since when its journey is paused, None while it is not; `suppressions` are the
    reasons of the rows for its address; `consent` is what its profile said, None when it said nothing. `follows` says that something
    of its profile on its connection was asked for earlier and does not leave before it.
    """

    paused_us: int | None
    suppressions: Collection[int]
    consent: bool | None
    follows: bool = False


def rules_of(connection: pb.Connection, policy: pb.SendingPolicy, *, writes_to_people: bool) -> Rules:
    """What holds for a connection; the policy holds where people are written to, unless it is mail that nobody unsubscribes from."""
    under_policy = writes_to_people and not connection.mail.transactional
    caps = [*_caps(connection.frequency_caps, Scope.CONNECTION)]
    if under_policy:
        caps += _caps(policy.journey_frequency_caps, Scope.JOURNEY)
        caps += _caps(policy.frequency_caps, Scope.ALL)
    hours = None
    if connection.HasField("quiet_hours"):
        hours = read_quiet_hours(connection.quiet_hours)
    elif under_policy and policy.HasField("quiet_hours"):
        hours = read_quiet_hours(policy.quiet_hours)
    return Rules(
        asks_suppressions=writes_to_people,
        ignored_suppressions=frozenset() if under_policy else frozenset({pb.SUPPRESSION_REASON_UNSUBSCRIBE}),
        asks_consent=under_policy or connection.requires_consent,
        requires_consent=connection.requires_consent,
        caps=tuple(caps),
        quiet_hours=hours,
    )


def has_own_rules(connection: pb.Connection) -> bool:
    """Whether a connection declares rules that what leaves through it is to be held against, whatever its kind."""
    return bool(
        connection.HasField("quiet_hours") or connection.frequency_caps or connection.requires_consent
    )


def judge(claim: Claim, rules: Rules, facts: Facts, tally: Tally, now: int) -> Verdict | None:
    """Why a delivery must not leave at `now` (microseconds since the epoch); None when it may, and then the tally has counted it."""
    journey = journey_of(claim.journey_version)
    verdict = (
        _paused(claim, facts, now)
        or _suppressed(rules, facts)
        or (None if removes(claim) else _without_consent(rules, facts) or _over_a_cap(claim, rules, tally))
        or _in_quiet_hours(claim, rules, now)
    )
    if verdict is None and not removes(claim):
        tally.let_through(claim.profile_id, journey)
    return verdict


def journey_of(journey_version: str) -> str:
    """`journeys/{id}` of `journeys/{id}/versions/{version}`; "" of none."""
    return journey_version.partition("/versions/")[0]


def read_quiet_hours(message: pb.QuietHours) -> QuietHours | None:
    """Quiet hours that were checked; None for what can't have been."""
    start, end = quiet.parse_clock(message.start), quiet.parse_clock(message.end)
    if start is None or end is None or start == end:
        return None
    return QuietHours(start, end, message.fallback_time_zone)


def _caps(messages: Sequence[pb.FrequencyCap], scope: Scope) -> list[Cap]:
    return [Cap(scope, each.count, from_duration(each.period)) for each in messages]


def removes(claim: Claim) -> bool:
    """Whether it takes somebody out of an audience."""
    return claim.action == journey_pb2.AUDIENCE_ACTION_REMOVE


def _paused(claim: Claim, facts: Facts, now: int) -> Verdict | None:
    """Looked at again after as long as the pause has lasted already, within bounds: the resume itself wakes what it held.

    A removal is no message, so it passes; not where it would overtake an addition that waits, which would then come last.
    """
    if facts.paused_us is None or (removes(claim) and not facts.follows):
        return None
    hold_us = min(max(now - facts.paused_us, _SHORTEST_HOLD_US), _LONGEST_HOLD_US)
    return _held(Reason.PAUSED, PAUSED_DETAIL, now + hold_us)


def _suppressed(rules: Rules, facts: Facts) -> Verdict | None:
    if not rules.asks_suppressions:
        return None
    for reason in sorted(facts.suppressions):
        if reason not in rules.ignored_suppressions:
            return _refused(Reason.SUPPRESSED, _SUPPRESSED_DETAILS.get(reason, "suppressed"))
    return None


def _without_consent(rules: Rules, facts: Facts) -> Verdict | None:
    if not rules.asks_consent or facts.consent:
        return None
    if facts.consent is False:
        return _refused(Reason.CONSENT, _REFUSED_DETAIL)
    return _refused(Reason.CONSENT, _REQUIRED_DETAIL) if rules.requires_consent else None


def _over_a_cap(claim: Claim, rules: Rules, tally: Tally) -> Verdict | None:
    cap = tally.full(rules.caps, claim.profile_id, journey_of(claim.journey_version))
    return None if cap is None else _refused(Reason.CAP, f"over a cap: {cap}")


def _in_quiet_hours(claim: Claim, rules: Rules, now: int) -> Verdict | None:
    if rules.quiet_hours is None:
        return None
    end = quiet.quiet_until(rules.quiet_hours, claim.time_zone, now)
    return None if end is None else _held(Reason.QUIET, QUIET_DETAIL, end)


def _refused(reason: Reason, detail: str) -> Verdict:
    return Verdict(reason, Outcome(Fate.REFUSED, detail))


def _held(reason: Reason, detail: str, until_us: int) -> Verdict:
    return Verdict(reason, Outcome(Fate.HELD, detail, until_us=until_us))
