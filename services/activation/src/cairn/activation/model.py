"""Owns the values that move between the parts of the service. Times are microseconds since the epoch. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from cairn.activation.ledger import Settled, State


class Activation(msgspec.Struct, frozen=True, gc=False):
    """A request that was parsed: `connection` and `template` are ids ("" for no template), `action` the contract's number.

    `context` is the JSON object that the message is made from, as bytes that nobody has parsed yet; `time_zone` the profile's IANA
    name, "" where it has none.
    """

    activation_id: str
    profile_id: str
    request_us: int
    connection: str
    template: str
    action: int
    journey_version: str
    stage: str
    step: str
    enrollment: str
    context: bytes
    time_zone: str = ""


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A request to take an activation back."""

    activation_id: str
    profile_id: str
    request_us: int
    reason: str


class Claim(msgspec.Struct, frozen=True, gc=False):
    """A row of the ledger that this process has leased; `attempts` counts the one that begins.

    `next_attempt_us` is the time at which it was due, `sequence` its place in the order of acceptance.
    """

    activation_id: str
    request_us: int
    profile_id: str
    template: str
    action: int
    context: bytes
    accept_us: int
    attempts: int
    enrollment: str
    time_zone: str = ""
    journey_version: str = ""
    next_attempt_us: int = 0
    sequence: int = 0
    stage: str = ""
    step: str = ""


class Result(NamedTuple):
    """What is written of a claim; `template_version` is that of the template it was made with, 0 where it came to none."""

    claim: Claim
    settled: Settled
    template_version: int = 0


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """An entry of a delivery's history, as it stands in the table: an attempt that did not end it, or an end that was changed."""

    end_us: int
    state: State
    detail: str


@dataclass(frozen=True, slots=True)
class Member:
    """What an audience holds of somebody once the platform took a row: `identifiers` as it got them, by name."""

    present: bool
    identifiers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A row of the ledger as people see it."""

    bucket: int
    activation_id: str
    profile_id: str
    state: State
    connection: str
    template: str
    action: int
    journey_version: str
    stage: str
    step: str
    enrollment: str
    request_us: int
    accept_us: int
    state_us: int
    next_attempt_us: int
    attempts: int
    detail: str
    external_id: str
    template_version: int = 0
    history: Sequence[Attempt] = ()


class Receipt(NamedTuple):
    """The fate of one activation, on its way to the Evaluator."""

    activation_id: str
    profile_id: str
    enrollment: str
    state: State
    detail: str
    state_us: int


class Fates(NamedTuple):
    """A row of the outbox of fates: `body` is a DeliverReceiptsRequest with `size` receipts, `writer` the process that wrote it."""

    bucket: int
    sequence: int
    writer: int
    size: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Resource:
    """A connection, a template or the sending policy as stored: `kind` is "connections", "templates" or "policies", `body` its protobuf JSON.

    `body` is "" where the reader said that it knows this etag already. `version` counts the changes, from 1; a row that is to be
    written has none yet.
    """

    kind: str
    id: str
    body: str
    etag: str
    update_us: int
    version: int = 0

    @property
    def name(self) -> str:
        """The resource name, `connections/email`."""
        return f"{self.kind}/{self.id}"
