"""A process that dies at any step of a delivery: nothing that may have arrived by mail is sent twice, nothing is lost, all is told.

All deliveries of a test are one profile's, so they are one batch, and each is at the same step when the process dies.
"""

import contextlib
from collections import Counter

import grpc
import pytest

from cairn.activation import crash
from cairn.api.activation.v1 import activation_pb2 as pb

SENT, UNKNOWN = pb.DELIVERY_STATE_SENT, pb.DELIVERY_STATE_UNKNOWN
IN_DOUBT = {"after_mark_sending", "in_send", "before_write_results"}
"""Where SENDING is committed and the result is not."""
ARRIVED = {"in_send", "before_write_results", "after_write_results", "before_receipt", "after_receipt"}
"""Where the destination has it."""


async def crash_at(point: str, activation_process, monkeypatch, things, activations):
    """A replica that died there with these activations, and the one that came after it; the caller repeats what got no answer."""
    monkeypatch.setenv(crash.VARIABLE, point)
    first = await activation_process()
    await first.put(*things)
    answered = False
    with contextlib.suppress(grpc.aio.AioRpcError):
        await first.activate(*activations)
        answered = True
    assert first.process
    assert await first.process.wait() == -9, "it died where it was asked to"
    monkeypatch.delenv(crash.VARIABLE)
    second = await activation_process()
    if not answered:
        again = await second.activate(*activations)
        assert again.accepted + again.known == len(activations)
    return second


@pytest.mark.parametrize("point", crash.POINTS)
async def test_mail_never_leaves_twice(
    activation_process, make, mail_server, receipt_sink, eventually, monkeypatch, rows, point
) -> None:
    server = await mail_server()
    things = (make.smtp_connection(server.port), make.template())
    requests = [make.mail(f"m-{number}", "ada") for number in range(5)]
    replica = await crash_at(point, activation_process, monkeypatch, things, requests)
    found = await replica.settled(5)
    mails = Counter(server.activations())
    expected = UNKNOWN if point in IN_DOUBT else SENT
    assert {d.state for d in found.values()} == {expected}
    assert set(found) == {request.activation_id for request in requests}
    if point in IN_DOUBT and point not in ARRIVED:
        assert not mails, "it is not known, so it stays away"
    else:
        assert mails == Counter(list(found)), "each exactly once"
    await eventually(lambda: receipt_sink.states == dict.fromkeys(found, expected))
    await eventually_told(rows, eventually)


@pytest.mark.parametrize("point", crash.POINTS)
async def test_an_audience_is_asked_again_where_it_is_not_known(
    activation_process, make, meta_platform, receipt_sink, eventually, monkeypatch, rows, point
) -> None:
    requests = [make.audience(f"a-{number}", "ada") for number in range(3)]
    requests.append(make.audience("a-remove", "ada", "REMOVE"))
    requests.append(make.audience("a-again", "ada"))
    things = (make.meta_connection(meta_platform.port),)
    replica = await crash_at(point, activation_process, monkeypatch, things, requests)
    found = await replica.settled(5)
    assert {d.state for d in found.values()} == {SENT}
    state = await meta_platform.state()
    assert len(state["members"]["123"]) == 1, "the last word is that she is in it"
    times = 2 if point in IN_DOUBT & ARRIVED else 1
    assert (state["counts"]["added"], state["counts"]["removed"]) == (4 * times, times)
    await eventually(lambda: receipt_sink.states == dict.fromkeys(found, SENT))
    await eventually_told(rows, eventually)
    members = await rows("SELECT profile_id, present, activation_id FROM members")
    assert [tuple(row) for row in members] == [("ada", True, "a-again")]


async def test_it_may_die_at_the_same_step_again_and_again(
    activation_process, make, mail_server, monkeypatch
) -> None:
    server = await mail_server()
    requests = [make.mail(f"m-{number}", "ada") for number in range(5)]
    things = (make.smtp_connection(server.port), make.template())
    monkeypatch.setenv(crash.VARIABLE, "before_mark_sending")
    for turn in range(3):
        replica = await activation_process()
        if not turn:
            await replica.put(*things)
            # It may die before its answer is on its way.
            with contextlib.suppress(grpc.aio.AioRpcError):
                await replica.activate(*requests)
        assert replica.process
        assert await replica.process.wait() == -9
    monkeypatch.delenv(crash.VARIABLE)
    found = await (await activation_process()).settled(5)
    assert {(d.state, d.attempts) for d in found.values()} == {(SENT, 4)}
    assert Counter(server.activations()) == Counter(list(found))


async def eventually_told(rows, eventually) -> None:
    """Nothing is left to be told."""

    async def told() -> bool:
        return not await rows("SELECT 1 FROM receipts")

    await eventually(told)
