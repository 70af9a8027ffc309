"""Owns what a channel is: the way to one kind of destination. Refuses to know the ledger, its rows or its retries."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import msgspec

from cairn.activation.channels.findings import Findings
from cairn.activation.ledger import Fate, Guarantee, Outcome
from cairn.activation.model import Claim, Member
from cairn.activation.secrets import Secrets
from cairn.activation.settings import ActivationSettings
from cairn.activation.templates import CompiledTemplate
from cairn.api.activation.v1 import activation_pb2 as pb

P = TypeVar("P")


class UnreachableError(Exception):
    """The destination can't be spoken to at all; nothing was sent. The text holds no personal data."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A claim with its template, ready to be prepared. `held`: what an audience got of somebody who is to be removed, by identifier."""

    claim: Claim
    template: CompiledTemplate | None
    held: Mapping[str, str] | None = None


class Channel(Protocol[P]):
    """One connection's way out, shared by all buckets of a process. `P` is what it prepares a claim to."""

    ordered: bool
    """Whether what was accepted later must wait while an earlier one waits for another try."""

    batch_size: int
    """How many deliveries are handed over at once."""

    linger_s: float
    """How long a batch that is not full may wait for more, in seconds; 0 where nothing is gained by it."""

    turns: asyncio.Semaphore
    """How many batches may be past the point of no return at a time: a crash leaves no more than these in doubt."""

    def prepare(self, letter: Letter) -> P | Outcome:
        """Everything that needs no destination; an Outcome when it can't be sent."""

    def address_of(self, prepared: P) -> str:
        """The address that suppressions are looked up for, as `mail.parse_address` gives it; "" where the channel has none."""

    def member_of(self, prepared: P) -> Member | None:
        """What the platform will hold of somebody once it took this; None where the channel leads to no audience."""

    async def open(self) -> None:
        """Makes sure that the destination can be spoken to; UnreachableError when not."""

    async def send(self, prepared: Sequence[P]) -> Sequence[Outcome]:
        """Hands a batch over and tells what became of each, in the same order. Raises nothing."""

    async def close(self) -> None:
        """Lets go of its connections."""


@runtime_checkable
class Probe(Protocol):
    """What a channel has in addition where its destination can be asked something harmless."""

    async def probe(self) -> str:
        """Asks, and tells in words what it answered, without personal data; UnreachableError when it is not there or does not let us in."""


@dataclass(frozen=True, slots=True)
class ChannelTools:
    """What a channel may use. `unsubscribe_url` makes the one-click address of (connection id, address); None where the service has no
    public address."""

    secrets: Secrets
    settings: ActivationSettings
    unsubscribe_url: Callable[[str, str], str] | None = None


@dataclass(frozen=True, slots=True)
class ChannelKind:
    """A kind of connection, as its file declares it.

    `name` is the field of the contract's `Connection.kind`, or the entry point's name of one that another package brings. `check` finds
    what is wrong with a connection; `open` makes the channel of one that was checked.
    """

    name: str
    guarantee: Guarantee
    """What holds when the process dies between `SENDING` and the result."""
    check: Callable[[pb.Connection, Findings], None]
    open: Callable[[pb.Connection, ChannelTools], Channel[Any]]
    needs_template: bool = False
    """Whether it can't do without a template."""
    needs_action: bool = False
    """Whether it leads to an audience, which adds somebody or removes somebody."""
    writes_to_people: bool = False
    """Whether people are written to: suppressions, consent and the sending policy hold."""
    stays: bool = False
    """Whether nothing leaves the house: a delivery is SENT (`log.LOGGED`) by being accepted."""


def failed(detail: str) -> Outcome:
    """It can't be sent, now or later."""
    return Outcome(Fate.FAILED, detail)


def retry(detail: str, after_us: int = 0) -> Outcome:
    """It was not sent, or may harmlessly be sent again."""
    return Outcome(Fate.RETRY, detail, retry_after_us=after_us)


def down(detail: str, after_us: int = 0) -> Outcome:
    """As `retry`, where the destination is not there or in trouble (no connection, no answer in time, HTTP 429 or 5xx).

    Some of these in a row, and the connection rests; `after_us` is the pause that the destination asked for, which holds for all.
    """
    return Outcome(Fate.RETRY, detail, retry_after_us=after_us, down=True)


def read_context(context: bytes) -> Mapping[str, Any] | Outcome:
    """The JSON object of a claim's context, or why there is none."""
    try:
        variables = msgspec.json.decode(context or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return failed("the activation's context is not JSON")
    return (
        variables if isinstance(variables, dict) else failed("the activation's context is not a JSON object")
    )


def attribute(variables: Mapping[str, Any], name: str) -> str:
    """A profile's attribute as text; "" for one that is not there, or is neither text nor a whole number."""
    profile = variables.get("profile")
    value = profile.get(name) if isinstance(profile, dict) else None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return ""
    return str(value)


def whole_text(text: str) -> str:
    """Text that JSON can carry: a template can make half of a character, which stands for none."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
