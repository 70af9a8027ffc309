"""Owns what the channels to ad audiences share: which attributes go, in which call each person goes, and what came of each of them.

Guarantee: at least once; adding or removing somebody twice is harmless. A platform's file declares the rest, see `Platform`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import msgspec

from cairn.activation.channels.base import (
    ChannelTools,
    Letter,
    UnreachableError,
    attribute,
    down,
    failed,
    retry,
)
from cairn.activation.channels.http import Answer, HttpClient
from cairn.activation.ledger import Fate, Guarantee, Outcome
from cairn.activation.model import Member
from cairn.activation.normalize import Normalizer
from cairn.activation.secrets import MissingSecretError
from cairn.api.definition.v1 import journey_pb2
from cairn.runtime.clock import now_us

LINGER_S = 1.0
"""How long a batch waits for more people: platforms count calls (Google 300 a minute), and show changes after hours."""

_TURNS = 4
_MOST_ANSWER_BYTES = 4 * 1024 * 1024
_MOST_EXTRA_CALLS = 40
"""By which a batch looks for those in it who are refused: with 10,000 people in a call there are 28 to be made for one of them."""
_WAITS = retry("waits for an earlier change of the audience")
_WAITS_FOR_PLATFORM = down(_WAITS.detail)
_REMOVES: Mapping[int, bool] = MappingProxyType(
    {journey_pb2.AUDIENCE_ACTION_ADD: False, journey_pb2.AUDIENCE_ACTION_REMOVE: True}
)


class Row(msgspec.Struct, frozen=True, gc=False):
    """One person's row: `values` in the order of the schema, written and hashed as the platform wants them, "" for one that they lack."""

    person: str
    remove: bool
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a platform."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer means: `named` for people by their place in the call, `rest` for all others.

    `again`: because of those named nothing of the call was taken; without them it can be made at once. `unnamed`: nothing of the call was
    taken, maybe because of some of its people only, and it is not said because of whom: smaller calls find out.
    """

    rest: Outcome
    named: Mapping[int, Outcome] = field(default_factory=dict)
    again: bool = False
    unnamed: bool = False


class NotLetInError(Exception):
    """No call can be made, as the platform does not let us in; `outcome` is what that makes of its people."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.detail)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Limits:
    """How much goes in one call. `mixed`: whether it may add some people and remove others."""

    people: int
    bytes: int
    mixed: bool = False


class Platform(Protocol):
    """One audience of a platform: what its file declares."""

    limits: Limits
    normalizer: Normalizer
    url: str
    """Where its calls go."""

    async def open(self) -> None:
        """Gets what calls need beforehand; NotLetInError or MissingSecretError when it can't be had."""

    async def call(self, schema: Sequence[str], rows: Sequence[Row]) -> Call:
        """The request that adds or removes people, with its credentials; errors as `open`."""

    def read(self, schema: Sequence[str], rows: Sequence[Row], answer: Answer, now: int) -> Verdict:
        """What an answer means for the people of a call, at time `now` (microseconds)."""


class AudienceChannel:
    """One audience, whatever platform it is on."""

    ordered = True
    linger_s = LINGER_S

    def __init__(self, platform: Platform, client: HttpClient, identifiers: Mapping[str, str]) -> None:
        rules = platform.normalizer.rules
        self._sources = tuple(
            (identifier, name, rules[identifier]) for identifier, name in sorted(identifiers.items())
        )
        self._schema = tuple(identifier for identifier, _, _ in self._sources)
        self._platform = platform
        self._client = client
        self.batch_size = platform.limits.people
        # A profile has one bucket, and a bucket one batch at a time: its adds and removes never cross.
        self.turns = asyncio.Semaphore(_TURNS)

    def prepare(self, letter: Letter) -> Row | Outcome:
        claim = letter.claim
        remove = _REMOVES.get(claim.action)
        if remove is None:
            return failed("an audience needs an action, ADD or REMOVE")
        try:
            context = _CONTEXT.decode(claim.context or b"{}")
        except msgspec.ValidationError:
            return failed("the activation's context is not a JSON object")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return failed("the activation's context is not JSON")
        values = self._values(context, letter.held if remove else None)
        if not any(values):
            names = ", ".join(f"`{name}`" for _, name, _ in self._sources)
            return failed(f"the profile has no identifier that the audience could match (attributes {names})")
        return Row(claim.profile_id, remove, values)

    def _values(self, context: "_Context", held: Mapping[str, str] | None) -> tuple[str, ...]:
        # Whoever is removed is so by what the audience got of them: their address may be another by now, or nothing else is left of them.
        # The rules leave as it is what they once made.
        hashed = held or context.hashed
        if isinstance(hashed, Mapping):
            return tuple(
                rule(value) if isinstance(value := hashed.get(identifier), str) else ""
                for identifier, _, rule in self._sources
            )
        variables = {"profile": context.profile}
        return tuple(rule(attribute(variables, name)) for _, name, rule in self._sources)

    def address_of(self, prepared: Row) -> str:
        return ""

    def member_of(self, prepared: Row) -> Member | None:
        values = zip(self._schema, prepared.values, strict=True)
        return Member(not prepared.remove, {identifier: value for identifier, value in values if value})

    async def open(self) -> None:
        try:
            await self._platform.open()
        except (NotLetInError, MissingSecretError) as error:
            raise UnreachableError(str(error)) from None

    async def probe(self) -> str:
        await self.open()
        answer = await self._client.call("HEAD", self._platform.url)
        if isinstance(answer, Outcome):
            raise UnreachableError(answer.detail)
        # What would tell more needs further rights, or changes the audience.
        return f"the ad platform can be reached (HTTP {answer.status}); whether it lets us in shows with the first person"

    async def send(self, prepared: Sequence[Row]) -> list[Outcome]:
        batch = _Batch(prepared, [_WAITS] * len(prepared))
        late: set[str] = set()
        for places in rounds(prepared, self._platform.limits):
            # Nobody's change may overtake an earlier one of theirs.
            turn = [place for place in places if prepared[place].person not in late] if late else places
            if turn and not await self._deliver(batch, turn):
                return _told_of_trouble(batch.outcomes)
            late.update(prepared[place].person for place in turn if batch.outcomes[place].fate is Fate.RETRY)
        return batch.outcomes

    async def close(self) -> None:
        await self._client.close()

    async def _deliver(self, batch: "_Batch", places: Sequence[int]) -> bool:
        """Makes one call, or several where one does not do, and writes down what came of each person.

        False when the platform takes nothing at present.
        """
        while True:
            verdict = await self._ask([batch.rows[place] for place in places])
            if verdict is None:
                return await self._divide(batch, places)
            if verdict.unnamed and len(places) > 1:
                batch.extra_calls -= 2
                if batch.extra_calls >= 0:
                    return await self._divide(batch, places)
                wait = retry(f"{verdict.rest.detail}; those in its call who are refused are being looked for")
                verdict = Verdict(wait, unnamed=True)
            for number, place in enumerate(places):
                batch.outcomes[place] = verdict.named.get(number, verdict.rest)
            if not verdict.again:
                return verdict.unnamed or verdict.rest.fate is not Fate.RETRY
            batch.extra_calls -= 1
            places = [place for number, place in enumerate(places) if number not in verdict.named]
            if not places or batch.extra_calls < 0:
                return True

    async def _divide(self, batch: "_Batch", places: Sequence[int]) -> bool:
        half = len(places) // 2
        return await self._deliver(batch, places[:half]) and await self._deliver(batch, places[half:])

    async def _ask(self, rows: Sequence[Row]) -> Verdict | None:
        """What became of the people of one call; None when they are too many bytes for one."""
        platform = self._platform
        try:
            call = await platform.call(self._schema, rows)
        except NotLetInError as error:
            return Verdict(error.outcome)
        except MissingSecretError as error:
            return Verdict(retry(str(error)))
        if len(call.body) > platform.limits.bytes and len(rows) > 1:
            return None
        answer = await self._client.call(call.method, call.url, headers=call.headers, body=call.body)
        if isinstance(answer, Outcome):
            return Verdict(answer)
        return platform.read(self._schema, rows, answer, now_us())


def open_client(platform: str, tools: ChannelTools) -> HttpClient:
    """The client of a channel to an audience; `platform` is how details name it."""
    return HttpClient(
        platform,
        Guarantee.AT_LEAST_ONCE,
        timeout_s=tools.settings.http_timeout_seconds,
        connections=_TURNS,
        most_answer_bytes=_MOST_ANSWER_BYTES,
    )


def taken(normalizer: Normalizer, external_id: object = "", more: str = "") -> Outcome:
    """The platform took it; by which rules its identifiers were written stays with the delivery."""
    known = str(external_id)[:100] if isinstance(external_id, (str, int)) else ""
    detail = f"the audience took it; changes show within a day; identifiers by {normalizer.name}{more}"
    return Outcome(Fate.SENT, detail, known)


def later(detail: str, answer: Answer, now: int, *, overloaded: bool = False, after_us: int = 0) -> Outcome:
    """Another try, after the pause that the answer asks for, in its head or by `after_us`.

    HTTP 429 and 5xx, and what a platform says in its own way (`overloaded`), are about the platform and not about the call.
    """
    pause_us = max(after_us, answer.retry_after_us(now))
    if overloaded or answer.status == 429 or answer.status >= 500:
        return down(detail, pause_us)
    return retry(detail, pause_us)


def no_answer_of(api: str, answer: Answer, now: int) -> Outcome:
    """What is not the platform's own word (a proxy's page) settles nothing: the call is repeated."""
    return later(f"HTTP {answer.status} with something that is no answer of {api}", answer, now)


def rounds(rows: Sequence[Row], limits: Limits) -> list[list[int]]:
    """The calls to make, one after the other, as lists of places in `rows`.

    A person's first row goes in the first round, the second in the second, so that no call and no two calls of a
    round have the same person twice; within a round adds and removes are calls of their own unless they may be mixed.
    """
    calls: list[tuple[list[int], list[int]]] = []
    seen: dict[str, int] = {}
    for place, row in enumerate(rows):
        number = seen.get(row.person, 0)
        seen[row.person] = number + 1
        if number == len(calls):
            calls.append(([], []))
        calls[number][row.remove and not limits.mixed].append(place)
    size = limits.people
    return [
        group[start : start + size]
        for pair in calls
        for group in pair
        for start in range(0, len(group), size)
    ]


def _told_of_trouble(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes of a batch that ended early: when the platform is in trouble, those who only wait are no sign that it works."""
    if not any(outcome.down for outcome in outcomes):
        return list(outcomes)
    return [_WAITS_FOR_PLATFORM if outcome is _WAITS else outcome for outcome in outcomes]


@dataclass(slots=True)
class _Batch:
    """What is being sent, and what came of each so far."""

    rows: Sequence[Row]
    outcomes: list[Outcome]
    extra_calls: int = _MOST_EXTRA_CALLS


class _Context(msgspec.Struct, gc=False):
    """What an audience reads of a context: `profile` has the attributes; `hashed`, by identifier, what the audience got before."""

    profile: Any = None
    hashed: Any = None


_CONTEXT = msgspec.json.Decoder(_Context)
