"""Owns the workloads of what leaves the house: activations into the ledger, mails, audience members, the way of a single mail."""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import aiohttp
import grpc
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from meters import pss_mb
from stage import Stage, used_between
from workloads import Figures, MailStandIn, Play, Verdict, Workload, percentiles

from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.activation.v1.activation_pb2_grpc import ActivationServiceStub
from cairn.api.definition.v1 import journey_pb2
from cairn.runtime.clock import from_datetime, now_us, to_timestamp
from cairn.testing.mail_server import read_index

TOKEN = "bench-token"
APP_SECRET = "bench-app"
_BATCH = 2_500
_WINDOW = 4
_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 600.0
# A connection is looked up again after a second.
_KNOWN_SECONDS = 2.0
_HOLD = ", rate_limit: {count: 1, period: 24h}"

MAILS = """
connection: {{name: email, smtp: {{host: 127.0.0.1, port: {port}, security: SMTP_SECURITY_NONE, from_address: "Shop <shop@example.com>", pool_size: 8}}{mail}}}
---
template:
  name: greeting
  subject: Hello, {{{{ profile.name }}}}
  text: "Welcome, {{{{ profile.name }}}}. {{% for item in entry.properties.products %}}{{{{ item }}}} {{% endfor %}}"
  html: "<p>Welcome, <b>{{{{ profile.name }}}}</b></p><ul>{{% for item in entry.properties.products %}}<li>{{{{ item }}}}</li>{{% endfor %}}</ul>"
"""
AUDIENCE = """
connection: {{name: audience, meta_audience: {{audience_id: "1", access_token_secret: bench-token, app_secret_secret: bench-app, base_url: "http://127.0.0.1:{port}/v25.0"}}{limit}}}
"""
HELD = """
connection: {name: held, smtp: {host: 127.0.0.1, port: 9, security: SMTP_SECURITY_NONE, from_address: shop@example.com}, rate_limit: {count: 1, period: 24h}}
---
template: {name: greeting, subject: Hello, text: "Welcome, {{ profile.name }}"}
"""


def secrets() -> dict[str, str]:
    """What connections of these workloads name, as the variables of the service that looks for it."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return {
        "CAIRN_SECRET_BENCH_TOKEN": TOKEN,
        "CAIRN_SECRET_BENCH_APP": APP_SECRET,
        "CAIRN_SECRET_BENCH_DKIM": pem.decode(),
    }


class PlatformStandIn:
    """Meta's custom audiences as a process, which checks what it gets and remembers who is a member."""

    def __enter__(self) -> Self:
        command = [
            sys.executable,
            "-m",
            "cairn.testing.meta_platform",
            "--token",
            TOKEN,
            "--app-secret",
            APP_SECRET,
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port: int = json.loads(self._process.stdout.readline())["port"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()


def requests_of(
    prefix: str, places: range, *, connection: str, template: str = "", action: int = 0
) -> list[pb.ActivateRequest]:
    """The calls that ask for one activation of each place."""
    asked = to_timestamp(now_us())
    requests = []
    for start in range(places.start, places.stop, _BATCH):
        request = pb.ActivateRequest()
        for place in range(start, min(start + _BATCH, places.stop)):
            request.activations.add(
                activation_id=f"{prefix}-{place}",
                profile_id=f"{prefix}-{place}",
                request_time=asked,
                connection=f"connections/{connection}",
                template=f"templates/{template}" if template else "",
                action=journey_pb2.AudienceAction.ValueType(action),
                journey_version="journeys/bench/versions/1",
                stage="first",
                step="first/1",
                enrollment=f"bench/{prefix}-{place}/1",
                context=json.dumps(
                    {
                        "profile": {
                            "email": f"{place}@{prefix}.example.test",
                            "name": "Ada",
                            "country": "JP",
                        },
                        "entry": {"name": "cart_add", "properties": {"products": ["lamp", "chair", "tea"]}},
                    }
                ).encode(),
            )
        requests.append(request)
    return requests


async def activate(stage: Stage, requests: Sequence[pb.ActivateRequest]) -> float:
    """Sends calls, a few side by side, each until it is taken; the seconds from the first to the last answer."""
    options = [("grpc.max_send_message_length", 1 << 26)]
    async with grpc.aio.insecure_channel(stage.suite.address("activation"), options=options) as channel:
        stub, waiting = ActivationServiceStub(channel), iter(requests)

        async def send() -> None:
            for request in waiting:
                while True:
                    try:
                        answer = await stub.Activate(request, timeout=60)
                    except grpc.aio.AioRpcError as error:
                        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                            raise
                        await asyncio.sleep(_POLL_SECONDS)
                        continue
                    if answer.refusals:
                        raise AssertionError(answer.refusals[0].message)
                    break

        began = time.monotonic()
        await asyncio.gather(*(send() for _ in range(_WINDOW)))
        return time.monotonic() - began


async def settled(stage: Stage, prefix: str, count: int) -> Counter[int]:
    """Waits until nothing of a prefix can move; how many are in each state."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        rows = await stage.database.fetch(
            "SELECT state, count(*) FROM activation.deliveries WHERE activation_id LIKE $1 GROUP BY state",
            f"{prefix}-%",
        )
        states: Counter[int] = Counter(dict(rows))
        if sum(states.values()) == count and not any(states[state] for state in (1, 2, 3)):
            return states
        await asyncio.sleep(1.0)
    raise AssertionError(f"deliveries were not settled after ten minutes: {states}")


def _rates(count: int, seconds: float, used: Mapping[str, float]) -> Figures:
    return {
        "per_s": round(count / seconds),
        "seconds": round(seconds, 2),
        "cpu_us_each": {name: round(value / count * 1_000_000, 1) for name, value in used.items()},
    }


async def _send_mails(play: Play, prefix: str, mail: MailStandIn, count: int) -> Figures:
    requests = requests_of(prefix, range(count), connection="email", template="greeting")
    before, began_us = play.stage.cpu(), now_us()
    play.say("sending mails")
    await activate(play.stage, requests)
    states = await settled(play.stage, prefix, count)
    used = used_between(before, play.stage.cpu())
    arrived: Counter[str] = Counter()
    last_us = began_us
    for entry in read_index(mail.folder):
        for address in entry["to"]:
            if address.endswith(f"@{prefix}.example.test"):
                arrived[address] += 1
                last_us = max(last_us, from_datetime(datetime.fromisoformat(entry["time"])))
    verdict = Verdict()
    for place in range(count):
        verdict.of(1, arrived[f"{place}@{prefix}.example.test"])
    if states[4] != count:
        verdict.wrong["not SENT"] += count - states[4]
    return {
        **_rates(count, (last_us - began_us) / 1_000_000, used),
        "correct": not verdict.wrong,
        "judged": verdict.judged,
        "wrong": dict(verdict.wrong),
    }


async def mails(play: Play) -> Figures:
    """20,000 templated mails with text and HTML through SMTP to a local server, unsigned, and half as many signed."""
    with MailStandIn("--index-only") as mail:
        await play.stage.publish(MAILS.format(port=mail.port, mail=""))
        await _send_mails(play, "warm", mail, 200)
        plain = await _send_mails(play, "plain", mail, play.size(20_000))
        signed = ", mail: {dkim_domain: example.com, dkim_selector: s1, dkim_key_secret: bench-dkim}"
        await play.stage.publish(MAILS.format(port=mail.port, mail=signed))
        await asyncio.sleep(_KNOWN_SECONDS)
        with_dkim = await _send_mails(play, "signed", mail, play.size(10_000))
    return {
        **plain,
        "signed": with_dkim,
        "correct": plain["correct"] and with_dkim["correct"],
        "judged": plain["judged"] + with_dkim["judged"],
        "wrong": dict(Counter(plain["wrong"]) + Counter(with_dkim["wrong"])),
    }


async def audience(play: Play) -> Figures:
    """250,000 people who wait in the ledger into an ad audience, in calls of up to 10,000, to a stand-in that checks each hash."""
    count = play.size(250_000)
    with PlatformStandIn() as platform:
        await play.stage.publish(AUDIENCE.format(port=platform.port, limit=""))
        warm = requests_of("warm", range(1_000), connection="audience", action=1)
        await activate(play.stage, warm)
        await settled(play.stage, "warm", 1_000)
        await play.stage.publish(AUDIENCE.format(port=platform.port, limit=_HOLD))
        await asyncio.sleep(_KNOWN_SECONDS)
        play.say("putting people into the ledger")
        accepting_s = await activate(
            play.stage, requests_of("member", range(count), connection="audience", action=1)
        )
        play.say("adding people")
        before, began_us = play.stage.cpu(), now_us()
        await play.stage.publish(AUDIENCE.format(port=platform.port, limit=""))
        states = await settled(play.stage, "member", count)
        used = used_between(before, play.stage.cpu())
        last = await play.stage.database.fetchval(
            "SELECT max(state_time) FROM activation.deliveries WHERE activation_id LIKE 'member-%'"
        )
        members, calls = await _members(platform.port)
    wrong: Counter[str] = Counter()
    if states[4] != count:
        wrong["not SENT"] = count - states[4]
    if members != count + 1_000:
        wrong["missing or foreign"] = abs(count + 1_000 - members)
    return {
        **_rates(count, (from_datetime(last) - began_us) / 1_000_000, used),
        "accepted_per_s": round(count / accepting_s),
        "calls": calls,
        "correct": not wrong,
        "judged": count,
        "wrong": dict(wrong),
    }


async def ledger(play: Play) -> Figures:
    """200,000 activations into the ledger, and on to a million that are pending: how fast they are accepted, and what they cost in memory."""
    count, all_ = play.size(200_000), play.size(1_000_000)
    await play.stage.publish(HELD)
    await activate(play.stage, requests_of("warm", range(2_000), connection="held", template="greeting"))
    pids = play.stage.pids()["activation"]
    memory_before = pss_mb(pids)
    requests = requests_of("held", range(count), connection="held", template="greeting")
    play.say("accepting")
    before = play.stage.cpu()
    seconds = await activate(play.stage, requests)
    used = used_between(before, play.stage.cpu())
    for start in range(count, all_, 50_000):
        play.say(f"{start:,} are pending")
        await activate(
            play.stage,
            requests_of(
                "held", range(start, min(start + 50_000, all_)), connection="held", template="greeting"
            ),
        )
    await asyncio.sleep(5.0)  # a few sweeps over what waits
    memory_after = pss_mb(pids)
    rows, pending = await play.stage.database.fetchrow(
        "SELECT count(*), count(*) FILTER (WHERE state IN (1, 2)) FROM activation.deliveries WHERE connection = 'held'"
    )
    wrong = {} if rows == all_ + 2_000 else {"missing": all_ + 2_000 - rows}
    return {
        **_rates(count, seconds, used),
        "pending": pending,
        "activation_mb_before": round(memory_before, 1),
        "activation_mb_at_a_million": round(memory_after, 1),
        "memory_grown_mb": round(memory_after - memory_before, 1),
        "correct": not wrong,
        "judged": all_,
        "wrong": wrong,
    }


async def hop(play: Play) -> Figures:
    """50 activations a second, one a call: from the call to the mail server's DATA."""
    count = play.size(1_000)
    with MailStandIn("--index-only") as mail:
        await play.stage.publish(MAILS.format(port=mail.port, mail=""))
        await _send_mails(play, "warm", mail, 200)
        called: dict[str, int] = {}
        options = [("grpc.max_send_message_length", 1 << 26)]
        play.say("sending one at a time")
        async with grpc.aio.insecure_channel(
            play.stage.suite.address("activation"), options=options
        ) as channel:
            stub = ActivationServiceStub(channel)
            began, tasks = time.monotonic(), []
            for place in range(count):
                (request,) = requests_of(
                    "hop", range(place, place + 1), connection="email", template="greeting"
                )
                await asyncio.sleep(max(0.0, began + place / 50 - time.monotonic()))
                called[f"{place}@hop.example.test"] = now_us()
                tasks.append(asyncio.create_task(_call(stub, request)))
            await asyncio.gather(*tasks)
        await settled(play.stage, "hop", count)
        arrived: dict[str, list[int]] = {}
        for entry in read_index(mail.folder):
            for address in entry["to"]:
                arrived.setdefault(address, []).append(from_datetime(datetime.fromisoformat(entry["time"])))
    verdict = Verdict()
    for address in called:
        verdict.of(1, len(arrived.get(address, [])))
    late = [
        (arrived[address][0] - time_us) / 1000 for address, time_us in called.items() if address in arrived
    ]
    return {
        "activate_to_data_ms": percentiles(late),
        "correct": not verdict.wrong,
        "judged": verdict.judged,
        "wrong": dict(verdict.wrong),
    }


async def _call(stub: Any, request: pb.ActivateRequest) -> None:
    await stub.Activate(request, timeout=30)


async def _members(port: int) -> tuple[int, int]:
    """How many people the stand-in's audience holds, and how many calls it got."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/_state") as response:
        state: dict[str, Any] = await response.json()
    members = state["members"].get("1", [])
    return len(members), state["counts"].get("calls", 0)


ACTIVATION_WORKLOADS: Mapping[str, Workload] = {
    "mails": mails,
    "audience": audience,
    "ledger": ledger,
    "hop": hop,
}
"""By name, in the order in which they run."""
