"""Owns trials of a connection: asking its destination something harmless, and sending one message past the ledger and its guard.

A trial has a channel of its own, so that it neither waits for what is being sent nor holds it up.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from cairn.activation.channels import kind_of, mail
from cairn.activation.channels.base import (
    Channel,
    ChannelTools,
    Letter,
    Probe,
    UnreachableError,
    read_context,
    retry,
)
from cairn.activation.channels.mail_maker import DEFAULT_ADDRESS_ATTRIBUTE
from cairn.activation.ledger import Fate, Outcome
from cairn.activation.model import Claim
from cairn.activation.templates import CompiledTemplate
from cairn.activation.wire_resources import check_context
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.clock import now_us
from cairn.runtime.errors import FieldViolation
from cairn.runtime.ids import random_id

SUBJECT_PREFIX = "[test] "
"""What a test message's subject begins with."""

TEST_PROFILE = "test"
"""Whom a test is for, where a destination is told."""

_CLOSE_SECONDS = 0.5
_NO_ANSWER = "it did not answer in time"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a destination answered: whether it lets us in, in words without personal data, and after how many milliseconds."""

    ok: bool
    detail: str
    latency_ms: int = 0


async def try_connection(connection: pb.Connection, tools: ChannelTools, limit_s: float) -> Answer:
    """Speaks to a connection's destination without sending anything, for at most `limit_s` seconds."""
    if kind_of(connection).stays:
        return Answer(True, "nothing leaves the house through it")
    async with _channel(connection, tools) as channel:
        begin = time.monotonic()
        ok, detail = True, ""
        try:
            async with asyncio.timeout(limit_s):
                detail = await _ask(channel)
        except UnreachableError as error:
            ok, detail = False, str(error)
        except TimeoutError:
            ok, detail = False, _NO_ANSWER
        return Answer(ok, detail, round((time.monotonic() - begin) * 1000))


async def _ask(channel: Channel[Any]) -> str:
    if isinstance(channel, Probe):
        return await channel.probe()
    await channel.open()
    return "it can be spoken to"


async def send_test(
    connection: pb.Connection,
    template: CompiledTemplate | None,
    context: bytes,
    action: int,
    tools: ChannelTools,
    limit_s: float,
) -> Outcome:
    """Sends one message at once, for at most `limit_s` seconds. What was cut short may have arrived: UNKNOWN."""
    now = now_us()
    claim = Claim(
        activation_id=f"test-{random_id():016x}",
        request_us=now,
        profile_id=TEST_PROFILE,
        template="",
        action=action,
        context=context,
        accept_us=now,
        attempts=1,
        enrollment="",
    )
    async with _channel(connection, tools) as channel:
        prepared = channel.prepare(Letter(claim, template))
        if isinstance(prepared, Outcome):
            return prepared
        sending = False
        try:
            async with asyncio.timeout(limit_s):
                await channel.open()
                sending = True
                [outcome] = await channel.send([prepared])
        except UnreachableError as error:
            return retry(str(error))
        except TimeoutError:
            return Outcome(Fate.UNKNOWN, f"{_NO_ANSWER}; it may have it") if sending else retry(_NO_ANSWER)
        return outcome


@asynccontextmanager
async def _channel(connection: pb.Connection, tools: ChannelTools) -> AsyncIterator[Channel[Any]]:
    channel = kind_of(connection).open(connection, tools)
    try:
        yield channel
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await channel.close()


def check_test(connection: pb.Connection, request: pb.SendTestRequest) -> list[FieldViolation]:
    """What is wrong with a request to send a test through a connection that exists."""
    kind = kind_of(connection)
    found = []
    if kind.needs_template and not request.template:
        found.append(FieldViolation("template", "is required: this connection sends e-mail"))
    if kind.needs_action and not request.action:
        found.append(FieldViolation("action", "is required: this connection is an audience; ADD or REMOVE"))
    if not kind.needs_action and request.action:
        found.append(FieldViolation("action", "is for audiences; leave it out"))
    found += check_context("context", request.context)
    if request.to_address:
        if not kind.needs_template:
            found.append(FieldViolation("to_address", "is for connections that send e-mail; leave it out"))
        elif not mail.parse_address(request.to_address):
            found.append(FieldViolation("to_address", "is no address that a mail server takes"))
    return found


def readdressed(connection: pb.Connection, context: bytes, to_address: str) -> bytes:
    """The context with another recipient; as it is without one."""
    variables = read_context(context)
    if not to_address or isinstance(variables, Outcome):
        return context
    kind = getattr(connection, connection.WhichOneof("kind") or "")
    name = getattr(kind, "address_attribute", "") or DEFAULT_ADDRESS_ATTRIBUTE
    profile = variables.get("profile")
    profile = profile if isinstance(profile, dict) else {}
    return msgspec.json.encode({**variables, "profile": {**profile, name: to_address}})
