"""Owns the wire form of what is about people: requests to domain values or all of their violations, rows to messages. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from cairn.activation import wire
from cairn.activation.channels.mail import parse_address
from cairn.activation.people import MAX_TIME_US, NEWEST, SUPPRESSING_KINDS
from cairn.activation.store_feedback import Feedback
from cairn.activation.store_people import Consent, Suppression
from cairn.activation.wire import parse_id
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.clock import from_timestamp, to_timestamp
from cairn.runtime.errors import CairnError, FieldViolation, invalid

MAX_PEOPLE = 1_000
"""Most suppressions, feedback or erasures in one call."""

MAX_NAME_BYTES = 64
"""Longest source and provider."""

MAX_TEXT_BYTES = 256
"""Longest id and detail."""

_CONNECTION = "is no name; write connections/ID, or nothing"
_ADDRESS = "is no e-mail address that a mail server takes"
_FEEDBACK_KINDS = frozenset(pb.FeedbackKind.values()) - {pb.FEEDBACK_KIND_UNSPECIFIED}
_SUPPRESSION_REASONS = frozenset(pb.SuppressionReason.values())


class Violations:
    """All that is wrong with a batch, item by item, below the name of its field."""

    def __init__(self, field: str, size: int, most: int) -> None:
        if not 1 <= size <= most:
            text = f"holds {size:,} items; 1 to {most:,} can be taken at once"
            raise invalid("The batch has the wrong size.", [FieldViolation(field, text)])
        self._field = field
        self._found: list[FieldViolation] = []

    def add(self, index: int, field: str, description: str) -> None:
        """A field of an item is wrong."""
        self._found.append(FieldViolation(f"{self._field}[{index}].{field}", description))

    def text(self, index: int, field: str, value: str, most: int, *, required: bool = False) -> None:
        """It has to be a text of at most `most` bytes."""
        size = len(value.encode("utf-8", "surrogatepass"))
        if required and not value:
            self.add(index, field, "is required")
        elif size > most:
            self.add(index, field, f"has {size:,} bytes; at most {most} can be taken")
        elif "\0" in value:
            self.add(index, field, "contains a NUL character")

    def connection(self, index: int, name: str) -> str:
        """The id of a connection that may be left out: "" then."""
        id_ = parse_id("connections", name) if name else ""
        if name and not id_:
            self.add(index, "connection", _CONNECTION)
        return id_

    def address(self, index: int, address: str, *, required: bool = True) -> str:
        """The bare address."""
        parsed = parse_address(address) if address else ""
        if address and not parsed:
            self.add(index, "address", _ADDRESS)
        elif required and not address:
            self.add(index, "address", "is required")
        return parsed

    def time(
        self, index: int, field: str, message: pb.Consent | pb.Feedback | pb.Erasure, now: int, default: int
    ) -> int:
        """A time that is not far ahead; `default` where there is none."""
        if not message.HasField(field):  # type: ignore[arg-type]  # one of each message's own fields
            return default
        time = getattr(message, field)
        if not (0 <= time.seconds < MAX_TIME_US // 1_000_000 and 0 <= time.nanos < 1_000_000_000):
            self.add(index, field, "is outside the years 1970 to 2099")
            return default
        at = from_timestamp(time)
        if at > now + wire.FUTURE_US:
            self.add(index, field, "is more than a day ahead of this service's clock")
        return at

    def refuse(self, message: str) -> None:
        """Refuses the call when anything was found."""
        if self._found:
            raise invalid(message, self._found)


@dataclass(frozen=True, slots=True)
class SuppressionRequest:
    """What one item of PutSuppressions asks for: `connection` is an id, "" for all e-mail."""

    address: str
    connection: str
    reason: int
    source: str
    detail: str


def parse_suppressions(messages: Sequence[pb.Suppression]) -> list[SuppressionRequest]:
    """The requests; a wrong one refuses all, with every violation."""
    wrong = Violations("suppressions", len(messages), MAX_PEOPLE)
    parsed = []
    for index, message in enumerate(messages):
        address = wrong.address(index, message.address)
        connection = wrong.connection(index, message.connection)
        wrong.text(index, "source", message.source, MAX_NAME_BYTES)
        wrong.text(index, "detail", message.detail, MAX_TEXT_BYTES)
        if message.reason not in _SUPPRESSION_REASONS:
            wrong.add(index, "reason", "is no reason")
        reason = message.reason or pb.SUPPRESSION_REASON_MANUAL
        parsed.append(SuppressionRequest(address, connection, reason, message.source, message.detail))
    wrong.refuse("Some suppressions are wrong; none was taken.")
    return parsed


def parse_one_address(address: str, connection: str = "", *, required: bool = True) -> tuple[str, str]:
    """The bare address and the connection's id of a call about one address."""
    violations = []
    parsed = parse_address(address) if address else ""
    if address and not parsed:
        violations.append(FieldViolation("address", _ADDRESS))
    elif required and not address:
        violations.append(FieldViolation("address", "is required"))
    id_ = parse_id("connections", connection) if connection else ""
    if connection and not id_:
        violations.append(FieldViolation("connection", _CONNECTION))
    if violations:
        raise invalid("The request is wrong.", violations)
    return parsed, id_


def parse_consents(messages: Sequence[pb.Consent], now: int) -> list[Consent]:
    """The consents; a wrong one refuses all, with every violation."""
    wrong = Violations("consents", len(messages), wire.MAX_BATCH)
    parsed = []
    for index, message in enumerate(messages):
        wrong.text(index, "profile_id", message.profile_id, MAX_TEXT_BYTES, required=True)
        wrong.text(index, "source", message.source, MAX_NAME_BYTES)
        connection = wrong.connection(index, message.connection)
        update_us = wrong.time(index, "update_time", message, now, now)
        parsed.append(Consent(message.profile_id, connection, message.granted, message.source, update_us))
    wrong.refuse("Some consents are wrong; none was taken.")
    return parsed


def parse_erasures(messages: Sequence[pb.Erasure], now: int) -> list[tuple[str, int]]:
    """Profiles' ids and when each was erased; a wrong one refuses all, with every violation."""
    wrong = Violations("erasures", len(messages), MAX_PEOPLE)
    parsed = []
    for index, message in enumerate(messages):
        wrong.text(index, "profile_id", message.profile_id, MAX_TEXT_BYTES, required=True)
        if not message.HasField("erase_time"):
            wrong.add(index, "erase_time", "is required")
        parsed.append((message.profile_id, wrong.time(index, "erase_time", message, now, now)))
    wrong.refuse("Some erasures are wrong; nothing was erased.")
    return parsed


def parse_profile_id(profile_id: str) -> str:
    """The id of a profile that is asked about."""
    if (
        not profile_id
        or "\0" in profile_id
        or len(profile_id.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES
    ):
        text = f"is required: 1 to {MAX_TEXT_BYTES} bytes without a NUL character"
        raise invalid("The profile's id is wrong.", [FieldViolation("profile_id", text)])
    return profile_id


def parse_feedback(messages: Sequence[pb.Feedback], now: int) -> list[Feedback]:
    """What is told; a wrong item refuses all, with every violation: the teller has to repeat it."""
    wrong = Violations("feedback", len(messages), MAX_PEOPLE)
    parsed = []
    for index, message in enumerate(messages):
        wrong.text(index, "provider", message.provider, MAX_NAME_BYTES, required=True)
        wrong.text(index, "event_id", message.event_id, MAX_TEXT_BYTES, required=True)
        wrong.text(index, "activation_id", message.activation_id, MAX_TEXT_BYTES)
        wrong.text(index, "detail", message.detail, MAX_TEXT_BYTES)
        if message.kind not in _FEEDBACK_KINDS:
            wrong.add(index, "kind", "is required: what the destination tells")
        suppresses = message.kind in SUPPRESSING_KINDS
        if not message.activation_id and not message.address and not suppresses:
            wrong.add(index, "activation_id", "is required where there is no address")
        parsed.append(
            Feedback(
                provider=message.provider,
                event_id=message.event_id,
                kind=message.kind,
                activation_id=message.activation_id,
                address=wrong.address(index, message.address, required=suppresses),
                connection=wrong.connection(index, message.connection),
                occur_us=wrong.time(index, "occur_time", message, now, now),
                detail=message.detail,
            )
        )
    wrong.refuse("Some feedback is wrong; none was taken.")
    return parsed


def to_feedback(row: Feedback) -> pb.Feedback:
    """The message of a row."""
    return pb.Feedback(
        provider=row.provider,
        event_id=row.event_id,
        kind=pb.FeedbackKind.ValueType(row.kind),
        activation_id=row.activation_id,
        connection=f"connections/{row.connection}" if row.connection else "",
        occur_time=to_timestamp(row.occur_us),
        detail=row.detail,
    )


def to_suppression(row: Suppression) -> pb.Suppression:
    """The message of a row."""
    return pb.Suppression(
        address=row.address,
        connection=f"connections/{row.connection}" if row.connection else "",
        reason=pb.SuppressionReason.ValueType(row.reason),
        source=row.source,
        detail=row.detail,
        create_time=to_timestamp(row.create_us),
        address_hash=row.address_hash.hex(),
    )


def to_consent(row: Consent) -> pb.Consent:
    """The message of a row."""
    return pb.Consent(
        profile_id=row.profile_id,
        connection=f"connections/{row.connection}" if row.connection else "",
        granted=row.granted,
        update_time=to_timestamp(row.update_us),
        source=row.source,
    )


def suppressions_token(last: Suppression) -> str:
    """The token of the page after this suppression."""
    return wire.resources_token(f"{last.create_us} {last.address_hash.hex()} {last.connection}")


def read_suppressions_token(token: str) -> tuple[int, bytes, str]:
    """The place that `suppressions_token` was given."""
    if not token:
        return NEWEST
    parts = wire.read_resources_token(token).split(" ")
    try:
        create_us, hash_, connection = int(parts[0]), bytes.fromhex(parts[1]), parts[2]
        if not 0 <= create_us <= MAX_TIME_US or len(parts) != 3 or "\0" in connection:
            raise _wrong_token()
    except (IndexError, ValueError):
        raise _wrong_token() from None
    return create_us, hash_, connection


def _wrong_token() -> CairnError:
    text = "is none of ours; take next_page_token as it came"
    return invalid("The page token is wrong.", [FieldViolation("page_token", text)])
