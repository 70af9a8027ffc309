"""Channels that speak HTTP, through the running service: whatever the other side does ends in a clear state of that one delivery."""

import asyncio
import contextlib
import json
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc
import pytest

from cairn.api.activation.v1 import activation_pb2 as pb

SENT, FAILED, UNKNOWN = pb.DELIVERY_STATE_SENT, pb.DELIVERY_STATE_FAILED, pb.DELIVERY_STATE_UNKNOWN
LOOPBACK = "127.0.0.0/8"
ACCESS_KEY_ID = "AKIAIOSFODNN7EXAMPLE"
HASTY_S = 2
SECRETS = {
    "hook-signing": "a-signing-key",
    "hook-token": "Bearer hook",
    "ses-key": "a-ses-key",
    "sg-key": "SG.key",
}
STAND_INS = {
    "webhook": ("webhook_receiver", "--secret", SECRETS["hook-signing"]),
    "ses": (
        "ses_platform",
        *("--access-key-id", ACCESS_KEY_ID, "--secret-key", SECRETS["ses-key"]),
        *("--region", "eu-central-1", "--identity", "example.com", "--configuration-set", "events"),
    ),
    "sendgrid": ("sendgrid_platform", "--api-key", SECRETS["sg-key"], "--sender", "shop@example.com"),
}


@dataclass
class OtherSide:
    """A stand-in's process."""

    kind: str
    port: int
    process: asyncio.subprocess.Process

    async def state(self) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.port}/_state"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return await response.json()

    async def misbehave(self, mode: str, count: int = 1) -> None:
        url = f"http://127.0.0.1:{self.port}/_misbehave"
        asked = {"mode": mode, "count": count}
        async with aiohttp.ClientSession() as session, session.post(url, json=asked) as response:
            assert response.status == 200

    async def taken(self) -> list[str]:
        """The activations that it took, each as often as it took it."""
        state = await self.state()
        if self.kind == "webhook":
            return [key for key, count in state["keys"].items() for _ in range(count)]
        if self.kind == "ses":
            return [message["headers"]["X-Cairn-Activation"] for message in state["messages"]]
        return [message["custom_args"]["activation_id"] for message in state["messages"]]

    def connection(self, name: str = "", **fields: Any) -> pb.Connection:
        base = f"http://127.0.0.1:{self.port}"
        made = pb.Connection(name=f"connections/{name or self.kind}")
        if self.kind == "webhook":
            values = {"url": f"{base}/in?x=%2F", "signing_secret": "hook-signing", **fields}
            made.webhook.CopyFrom(pb.WebhookConnection(**values))
        elif self.kind == "ses":
            values = {
                "region": "eu-central-1",
                "access_key_id": ACCESS_KEY_ID,
                "secret_key_secret": "ses-key",
                "from_address": "Shop <shop@example.com>",
                "configuration_set": "events",
                "base_url": base,
                **fields,
            }
            made.ses.CopyFrom(pb.SesConnection(**values))
        else:
            values = {
                "api_key_secret": "sg-key",
                "from_address": "Shop <shop@example.com>",
                "base_url": base,
                **fields,
            }
            made.sendgrid.CopyFrom(pb.SendgridConnection(**values))
        return made


@pytest.fixture(autouse=True)
def _secrets(monkeypatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(f"CAIRN_SECRET_{name.upper().replace('-', '_')}", value)


@pytest.fixture
async def other_side():
    started: list[OtherSide] = []

    async def start(kind: str, *options: str) -> OtherSide:
        module, *arguments = STAND_INS[kind]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"cairn.testing.{module}", *arguments, *options),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout
        async with asyncio.timeout(30):
            port = json.loads(await process.stdout.readline())["port"]
        started.append(OtherSide(kind, port, process))
        return started[-1]

    yield start
    for side in started:
        with contextlib.suppress(ProcessLookupError):
            side.process.terminate()
        await side.process.wait()


@pytest.fixture
async def service(activation, make):
    replica = await activation(http_timeout_seconds=10, webhook_allowed_networks=LOOPBACK)
    await replica.put(make.template(html="<b>{{ profile.name }}</b>"))
    return replica


@pytest.fixture
async def hasty(activation, make):
    """One that does not wait for long, where the other side hangs."""
    replica = await activation(http_timeout_seconds=HASTY_S, webhook_allowed_networks=LOOPBACK)
    await replica.put(make.template(html="<b>{{ profile.name }}</b>"))
    return replica


def one(make, id_: str, kind: str, **fields: Any) -> pb.Activation:
    return make.mail(id_, connection=f"connections/{kind}", **fields)


async def test_a_message_through_ses(service, make, other_side) -> None:
    ses = await other_side("ses")
    await service.put(ses.connection())
    await service.activate(one(make, "e-1", "ses"), one(make, "e.2", "ses"))
    found = await service.settled(2)
    assert {d.state for d in found.values()} == {SENT}
    messages = {m["headers"]["X-Cairn-Activation"]: m for m in (await ses.state())["messages"]}
    assert {id_: m["message_id"] for id_, m in messages.items()} == {
        id_: d.external_id for id_, d in found.items()
    }
    message = messages["e-1"]
    assert message["to"] == ["profile-of-e-1@example.com"]
    assert message["from"] == '"Shop" <shop@example.com>'
    assert message["tags"] == {"connection": "ses", "activation": "e-1"}
    assert message["configuration_set"] == "events"
    assert message["headers"]["Subject"] == "Hello Ada"
    assert message["parts"] == ["text/plain", "text/html"]
    assert messages["e.2"]["tags"] == {"connection": "ses"}


async def test_a_message_through_sendgrid(activation, make, other_side) -> None:
    sendgrid = await other_side("sendgrid")
    service = await activation(public_base_url="https://mail.example.com")
    await service.put(make.template(html="<b>{{ profile.name }}</b>"), sendgrid.connection())
    await service.activate(one(make, "e.1", "sendgrid"))
    delivery = (await service.settled(1))["e.1"]
    (message,) = (await sendgrid.state())["messages"]
    assert (delivery.state, delivery.external_id) == (SENT, message["message_id"])
    assert message["to"] == "profile-of-e.1@example.com"
    assert message["custom_args"] == {"activation_id": "e.1", "connection": "sendgrid"}
    assert message["content"][1] == {"type": "text/html", "value": "<b>Ada</b>"}
    assert message["headers"]["X-Cairn-Activation"] == "e.1"
    assert message["headers"]["List-Unsubscribe"].startswith("<https://mail.example.com/")
    assert message["headers"]["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"


async def test_a_call_of_a_webhook(service, make, other_side) -> None:
    hook = await other_side("webhook")
    await service.put(hook.connection(header_secrets={"Authorization": "hook-token"}))
    activation = one(make, "e 1%", "webhook")
    await service.activate(activation)
    assert (await service.settled(1))["e 1%"].state == SENT
    (call,) = (await hook.state())["taken"]
    assert call["path"] == "/in?x=%2F"
    assert call["headers"]["Idempotency-Key"] == "e%201%25"
    assert call["headers"]["Authorization"] == "Bearer hook"
    assert call["body"]["context"] == json.loads(activation.context)
    assert call["body"]["message"]["html"] == "<b>Ada</b>"
    assert {name: call["body"][name] for name in ("activation_id", "stage", "step", "journey_version")} == {
        "activation_id": "e 1%",
        "stage": "signed-up",
        "step": "one/2",
        "journey_version": "journeys/welcome/versions/1",
    }
    assert call["body"]["request_time"] == activation.request_time.ToJsonString()


AGAIN = ["429", "429_retry_after", "redirect"]
IN_DOUBT = ["hang", "reset", "reset_early", "html", "ten_megabytes"]


@pytest.mark.parametrize(
    ("kind", "modes"),
    [
        ("webhook", [*AGAIN, *IN_DOUBT, "500"]),
        ("ses", [*AGAIN, "500", "SendingPausedException"]),
        ("sendgrid", [*AGAIN, "401", "503"]),
    ],
)
async def test_what_passes_is_tried_again(hasty, make, other_side, kind, modes) -> None:
    side = await other_side(kind)
    await hasty.put(side.connection())
    for number, mode in enumerate(modes, 1):
        await side.misbehave(mode, 2)
        await hasty.activate(one(make, mode, kind))
        delivery = (await hasty.settled(number))[mode]
        assert (mode, delivery.state, delivery.attempts) == (mode, SENT, 3)
        assert [attempt.state for attempt in delivery.history] == [pb.DELIVERY_STATE_PENDING] * 2
    assert sorted(await side.taken()) == sorted(modes)


@pytest.mark.parametrize(("kind", "modes"), [("ses", IN_DOUBT), ("sendgrid", [*IN_DOUBT, "500"])])
async def test_what_may_have_been_taken_is_never_sent_again(hasty, make, other_side, kind, modes) -> None:
    side = await other_side(kind)
    await hasty.put(side.connection())
    for number, mode in enumerate(modes):
        await side.misbehave(mode, 1)
        await hasty.activate(one(make, mode, kind))
        delivery = (await hasty.settled(2 * number + 1))[mode]
        assert (mode, delivery.state, delivery.attempts) == (mode, UNKNOWN, 1)
        assert "it may have it" in delivery.detail
        await hasty.activate(one(make, f"after-{mode}", kind))
        await hasty.settled(2 * number + 2)
    assert await side.taken() == [f"after-{mode}" for mode in modes]


@pytest.mark.parametrize(
    ("kind", "modes"), [("ses", ["MessageRejected"]), ("sendgrid", ["400"]), ("webhook", ["410", "422"])]
)
async def test_what_is_refused_fails_alone(service, make, other_side, kind, modes) -> None:
    side = await other_side(kind)
    await service.put(side.connection())
    for mode in modes:
        await side.misbehave(mode, 1)
        await service.activate(one(make, mode, kind))
        delivery = (await service.settled(modes.index(mode) + 1))[mode]
        assert (delivery.state, delivery.attempts) == (FAILED, 1)
        assert "@" not in delivery.detail
    await service.activate(one(make, "e-2", kind))
    assert (await service.settled(len(modes) + 1))["e-2"].state == SENT


async def test_too_many_for_ever_ends_when_the_budget_does(activation, make, other_side) -> None:
    replica = await activation(webhook_allowed_networks=LOOPBACK, attempts_budget=3)
    sides = [await other_side(kind, "--misbehave", "429") for kind in STAND_INS]
    await replica.put(make.template(), *(side.connection() for side in sides))
    await replica.activate(*(one(make, side.kind, side.kind) for side in sides))
    for delivery in (await replica.settled(len(sides))).values():
        assert (delivery.state, delivery.attempts) == (FAILED, 3)
        assert delivery.detail.startswith("given up after 3 attempts")
        assert "429" in delivery.detail


async def test_one_that_hangs_slows_no_other(activation, make, other_side) -> None:
    """All that leaves elsewhere is there while the one that hangs still waits for its first answer."""
    replica = await activation(webhook_allowed_networks=LOOPBACK, http_timeout_seconds=600, drain_seconds=0)
    hanging = [await other_side(kind, "--misbehave", "hang") for kind in STAND_INS]
    good = await other_side("webhook")
    await replica.put(make.template(), *(side.connection() for side in hanging), good.connection("good"))
    await replica.activate(*(one(make, f"{s.kind}-{n}", s.kind) for s in hanging for n in range(20)))
    await replica.activate(*(one(make, f"good-{n}", "good") for n in range(200)))
    found = await replica.settled(200)
    assert {d.state for id_, d in found.items() if id_.startswith("good-")} == {SENT}
    others = {d.state for id_, d in found.items() if not id_.startswith("good-")}
    assert not others & {SENT, FAILED, UNKNOWN}
    for side in hanging:
        side.process.kill()


@pytest.mark.parametrize("kind", ["ses", "sendgrid"])
async def test_of_a_batch_that_finds_nobody_few_are_in_doubt(
    hasty, make, other_side, kind, eventually
) -> None:
    side = await other_side(kind, "--misbehave", "hang")
    await hasty.put(side.connection(pool_size=2))
    began = time.monotonic()
    await hasty.activate(*(one(make, f"e-{n}", kind, profile="ada") for n in range(30)))

    async def some_are_in_doubt() -> bool:
        return any(d.state == UNKNOWN for d in (await hasty.deliveries()).values())

    await eventually(some_are_in_doubt)
    await side.misbehave("")
    rounds = 2 + (time.monotonic() - began) // HASTY_S
    found = await hasty.settled(30)
    unknown = {id_ for id_, d in found.items() if d.state == UNKNOWN}
    # Two at a time, and as many again each time that both are given up.
    assert 1 <= len(unknown) <= 2 * rounds
    assert sorted(await side.taken()) == sorted(set(found) - unknown)


async def test_a_secret_that_is_wrong_waits_for_a_right_one(
    service, make, other_side, monkeypatch, eventually
) -> None:
    sides = [await other_side(kind) for kind in ("ses", "sendgrid")]
    monkeypatch.setenv("CAIRN_SECRET_SES_KEY", "a-stale-key")
    monkeypatch.setenv("CAIRN_SECRET_SG_KEY", "a-stale-key")
    await service.put(*(side.connection() for side in sides))
    await service.activate(*(one(make, side.kind, side.kind) for side in sides))

    async def told() -> bool:
        details = [d.detail for d in (await service.deliveries()).values()]
        assert "a-stale-key" not in str(details)
        return all("renew" in detail for detail in details)

    await eventually(told)
    monkeypatch.setenv("CAIRN_SECRET_SES_KEY", SECRETS["ses-key"])
    monkeypatch.setenv("CAIRN_SECRET_SG_KEY", SECRETS["sg-key"])
    assert {d.state for d in (await service.settled(2)).values()} == {SENT}


async def test_a_secret_can_not_forge_a_header(service, make, other_side, monkeypatch, eventually) -> None:
    hook = await other_side("webhook")
    monkeypatch.setenv("CAIRN_SECRET_HOOK_TOKEN", "Bearer hook\r\nX-Evil: 1")
    await service.put(hook.connection(header_secrets={"Authorization": "hook-token"}))
    await service.activate(one(make, "e-1", "webhook"))

    async def told() -> str:
        return (await service.deliveries())["e-1"].detail

    assert "Authorization" in await eventually(told)
    assert (await hook.state())["counts"] == {}
    monkeypatch.setenv("CAIRN_SECRET_HOOK_TOKEN", "Bearer hook")
    assert (await service.settled(1))["e-1"].state == SENT


async def test_a_clock_that_is_wrong_is_told(activation, make, other_side) -> None:
    ses = await other_side("ses", "--clock-offset", "3600")
    replica = await activation(attempts_budget=2)
    await replica.put(make.template(), ses.connection())
    await replica.activate(one(make, "e-1", "ses"))
    delivery = (await replica.settled(1))["e-1"]
    assert delivery.state == FAILED
    assert "clock" in delivery.detail


# Where a webhook may not lead.


def hook_to(url: str) -> pb.Connection:
    webhook = pb.WebhookConnection(url=url, signing_secret="hook-signing")
    return pb.Connection(name="connections/webhook", webhook=webhook)


async def test_the_metadata_service_is_no_webhook(activation) -> None:
    replica = await activation()
    for url in (
        "http://169.254.169.254/latest/meta-data/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::ffff:a9fe:a9fe]/",
        "https://2852039166/",
        "http://example.com/",
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await replica.put(hook_to(url))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_an_address_that_is_allowed_no_longer(activation, make, other_side) -> None:
    hook = await other_side("webhook")
    before = await activation(webhook_allowed_networks=LOOPBACK)
    await before.put(make.template(), hook.connection())
    await before.stop()
    replica = await activation(webhook_allowed_networks="")
    await replica.activate(one(make, "e-1", "webhook"))
    delivery = (await replica.settled(1))["e-1"]
    assert (delivery.state, delivery.attempts) == (FAILED, 1)
    assert delivery.detail == "the webhook is at an address that is not allowed; nothing was sent"
    assert (await hook.state())["counts"] == {}


async def test_a_name_that_leads_there_and_one_that_comes_to(
    service, make, other_side, monkeypatch, eventually
) -> None:
    """The name of a webhook leads to an allowed address first; later, to the metadata service."""
    hook = await other_side("webhook")
    addresses = {"rebinding.example": "127.0.0.1", "metadata.example": "169.254.169.254"}
    lookup = socket.getaddrinfo

    def looked_up(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        return lookup(addresses.get(host, host), port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    url = f"http://rebinding.example:{hook.port}/"
    await service.put(
        hook_to(url),
        pb.Connection(name="connections/other", webhook=hook_to("https://metadata.example/").webhook),
    )
    await service.activate(one(make, "e-1", "webhook"), one(make, "e-2", "other"))
    found = await service.settled(2)
    assert found["e-1"].state == SENT
    assert (found["e-2"].state, "not allowed" in found["e-2"].detail) == (FAILED, True)
    addresses["rebinding.example"] = "169.254.169.254"
    # Another connection to the same place begins with nothing that was looked up before.
    await service.put(hook_to(f"{url}again"))
    await service.activate(one(make, "e-3", "webhook"))
    delivery = (await service.settled(3))["e-3"]
    assert (delivery.state, "not allowed" in delivery.detail) == (FAILED, True)


async def test_a_redirect_there_is_not_followed(activation, make, other_side) -> None:
    hook = await other_side("webhook", "--misbehave", "redirect")
    replica = await activation(webhook_allowed_networks=LOOPBACK, attempts_budget=2)
    await replica.put(make.template(), hook.connection())
    await replica.activate(one(make, "e-1", "webhook"))
    delivery = (await replica.settled(1))["e-1"]
    assert (delivery.state, delivery.attempts) == (FAILED, 2)
    assert "redirect (HTTP 307), which is not followed" in delivery.detail
    assert (await hook.state())["counts"]["calls"] == 2


async def test_a_kill_in_the_middle_of_a_call(activation_process, make, other_side, eventually) -> None:
    """What hung when the process died: mail is in doubt, a webhook is called again."""
    settings = {"webhook_allowed_networks": LOOPBACK, "http_timeout_seconds": 600}
    before = await activation_process(**settings)
    sides = [await other_side(kind, "--misbehave", "hang") for kind in STAND_INS]
    await before.put(make.template(), *(side.connection() for side in sides))
    await before.activate(*(one(make, side.kind, side.kind) for side in sides))

    async def all_hang() -> bool:
        return all([(await side.state())["counts"].get("calls") for side in sides])

    await eventually(all_hang)
    await before.kill()
    for side in sides:
        await side.misbehave("")
    replica = await activation_process(**settings)
    found = await replica.settled(3)
    assert {id_: d.state for id_, d in found.items()} == {
        "ses": UNKNOWN,
        "sendgrid": UNKNOWN,
        "webhook": SENT,
    }
    assert {side.kind: await side.taken() for side in sides} == {
        "ses": [],
        "sendgrid": [],
        "webhook": ["webhook"],
    }


async def test_a_connection_is_tested_without_sending(service, other_side) -> None:
    for kind, words in (("ses", "in production"), ("sendgrid", "may send"), ("webhook", "can be reached")):
        side = await other_side(kind)
        await service.put(side.connection())
        request = pb.TestConnectionRequest(name=f"connections/{kind}")
        answer = await service.stub.TestConnection(request, timeout=30)
        assert answer.ok, answer.detail
        assert words in answer.detail
        assert await side.taken() == []
        await side.misbehave("reset", 0)
        answer = await service.stub.TestConnection(request, timeout=30)
        assert not answer.ok
