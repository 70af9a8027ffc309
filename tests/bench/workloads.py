"""Owns the workloads: what each sends, what it reads off, and how each profile is judged."""

import json
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from load import Phase, profile_of
from stage import Sent, Stage, datetime_of, used_between

from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.runtime.clock import from_datetime
from cairn.testing.mail_server import read_index

Figures = dict[str, Any]
Say = Callable[[str], None]

_SECOND_US = 1_000_000

CARTS = """
connection: {{name: log, log: {{}}}}
---
name: carts
type: REAL_TIME
goal: {{criteria: event.name == "purchase"}}
reentry: {{mode: ALWAYS}}
stages:
  - name: cart
    entry: event.name == "cart_add"
    steps:
      - wait: {{duration: {wait}s}}
      - activation: {{channel: log}}
"""

OTHER = """
name: other-{number}
type: REAL_TIME
goal: {{criteria: event.name == "goal_{number}"}}
stages:
  - name: first
    entry: event.name == "begin_{number}" && event.properties.plan == "plan-{number}"
    steps:
      - wait: {{duration: 3d}}
      - activation: {{channel: log}}
"""

KEEP = """
connection: {{name: log, log: {{}}}}
---
name: keep
type: REAL_TIME
stages:
  - name: kept
    entry: event.name == "signed_up"
    steps:
      - wait: {{duration: 30d}}
      - activation: {{channel: log}}
"""

GREETING = """
connection: {{name: email, smtp: {{host: 127.0.0.1, port: {port}, security: SMTP_SECURITY_NONE, from_address: "Shop <shop@example.com>"}}}}
---
template: {{name: greeting, subject: Hello, text: "Welcome, {{{{ profile.name }}}}"}}
---
name: greeting
type: REAL_TIME
reentry: {{mode: ALWAYS}}
stages:
  - name: greeted
    entry: event.name == "signed_up"
    steps:
      - activation: {{channel: email, template: greeting}}
"""


@dataclass
class Verdict:
    """How many profiles were judged, and what was wrong, by kind of wrong."""

    judged: int = 0
    ambiguous: int = 0
    wrong: Counter[str] = field(default_factory=Counter)

    def of(self, expected: int | None, got: int) -> None:
        """One profile: None says that either 0 or 1 is right, as the purchase and the timer crossed."""
        self.judged += 1
        if expected is None:
            self.ambiguous += 1
            if got > 1:
                self.wrong["twice"] += 1
        elif got < expected:
            self.wrong["missing"] += 1
        elif got > expected:
            self.wrong["twice" if expected else "unwanted"] += 1


@dataclass
class Deliveries:
    """What the ledger holds: how often each profile was sent something, of whom one was taken back, and how late each was, in milliseconds."""

    sent: Counter[str] = field(default_factory=Counter)
    withdrawn: set[str] = field(default_factory=set)
    lateness_ms: list[float] = field(default_factory=list)
    last_us: int = 0
    unsettled: int = 0


async def read_deliveries(stage: Stage, prefix: str, since_us: int) -> Deliveries:
    """The deliveries to profiles of a prefix that were asked for at a time or later. A wait's activation is asked for at the wait's end, which is the timer's due time."""
    found = Deliveries()
    async with stage.database.transaction():
        cursor = stage.database.cursor(
            "SELECT profile_id, state, request_time, state_time FROM activation.deliveries WHERE request_time >= $1",
            datetime_of(since_us),
            prefetch=20_000,
        )
        async for profile_id, state, requested, settled in cursor:
            if not profile_id.startswith(f"{prefix}-"):
                continue
            requested_us, settled_us = from_datetime(requested), from_datetime(settled)
            if state == 8:
                found.withdrawn.add(profile_id)
                continue
            if state != 4:
                found.unsettled += 1
                continue
            found.sent[profile_id] += 1
            found.lateness_ms.append((settled_us - requested_us) / 1000)
            found.last_us = max(found.last_us, settled_us)
    return found


def judge_carts(
    adds: tuple[Phase, Sent], buys: tuple[Phase, Sent] | None, wait_us: int, found: Deliveries
) -> Verdict:
    """Who did not buy in time gets one reminder, who did gets none."""
    verdict = Verdict()
    added = adds[1].times(adds[0])
    bought = buys[1].times(buys[0]) if buys else {}
    for place, (added_us, _) in added.items():
        due_us = added_us + wait_us
        expected: int | None = 1
        if place in bought:
            bought_us, acknowledged_us = bought[place]
            # Between these two the timer may have been first at the lane.
            expected = 0 if acknowledged_us < due_us else 1 if bought_us >= due_us else None
            if expected and profile_of(adds[0].prefix, place) in found.withdrawn:
                # Bought when the reminder had been asked for and had not left: it was taken back, as it should be.
                expected = None
        verdict.of(expected, found.sent[profile_of(adds[0].prefix, place)])
    return verdict


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """p50, p99 and the highest."""
    if not values:
        return None
    ordered = sorted(values)
    return {
        "p50": round(ordered[len(ordered) // 2], 1),
        "p99": round(ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], 1),
        "max": round(ordered[-1], 1),
    }


@dataclass
class Play:
    """One workload's means: the stage, how large to be (1 is the size of the targets), and where to say what is going on."""

    stage: Stage
    scale: float
    say: Say

    def size(self, full: int, least: int = 200) -> int:
        """A number of things at this scale, even."""
        return max(least, int(full * self.scale) // 2 * 2)

    async def carts(
        self,
        places: range,
        wait_s: int,
        *,
        noise: int = 0,
        prefix: str = "p",
        round_: int = 0,
        unary: bool = False,
        streams: int = 1,
    ) -> Figures:
        """Carts of the profiles of some places, every second of them bought, all judged."""
        common = {
            "noise": noise,
            "prefix": prefix,
            "round": round_,
            "unary": unary,
            "window": 64 if unary else 16,
            "batch": 1_100 if noise else 500,
            "streams": streams,
        }
        add = Phase("cart_add", places.stop, places.start, places.step, **common)
        buy = Phase("purchase", places.stop, places.start, places.step * 2, **common)
        before: dict[str, float] = {}

        async def mark() -> None:
            before.update(self.stage.cpu())
            self.say("sending")

        self.say("preparing")
        sent_add, sent_buy = await self.stage.send([add, buy], mark)
        accepting = used_between(before, self.stage.cpu())
        events, seconds = sent_add.events + sent_buy.events, sent_add.seconds + sent_buy.seconds
        self.say(f"{events / seconds:,.0f} events/s; waiting for the timers")
        last_due_us = sent_add.last_us + wait_s * _SECOND_US
        drained = await self.stage.drained(last_due_us)
        used = used_between(before, self.stage.cpu())
        found = await read_deliveries(self.stage, prefix, sent_add.began_us)
        verdict = judge_carts((add, sent_add), (buy, sent_buy), wait_s * _SECOND_US, found)
        per_10k = 10_000 / len(places)
        return {
            "journeys": len(places),
            "events": events,
            "events_per_s": round(events / seconds),
            "cpu_s_per_10k_journeys": round(sum(used.values()) * per_10k, 2),
            "cpu_s_by_part": {name: round(value * per_10k, 2) for name, value in used.items()},
            "cpu_s_by_part_accepting": {name: round(value * per_10k, 2) for name, value in accepting.items()},
            "overloaded": sent_add.overloaded + sent_buy.overloaded,
            **_timed(drained, found, verdict, last_due_us),
        }


async def carts(play: Play) -> Figures:
    """100,000 carts with a wait of ten seconds, half of them bought before."""
    await play.stage.publish(CARTS.format(wait=10))
    await play.carts(range(2_000), 10, prefix="warm")
    return await play.carts(range(play.size(100_000)), 10)


async def spread(play: Play) -> Figures:
    """500 timers a second for 20 seconds."""
    await play.stage.publish(CARTS.format(wait=3))
    await play.carts(range(2_000), 3, prefix="warm")
    return await timers(play, Phase("cart_add", play.size(10_000), batch=1, rate=500, window=256), 3)


async def burst(play: Play) -> Figures:
    """50,000 timers that are due in one instant, and 10,000."""
    await play.stage.publish(CARTS.format(wait=15))
    await play.carts(range(2_000), 15, prefix="warm")
    few = await timers(play, Phase("cart_add", play.size(10_000), together=True, prefix="few"), 15)
    many = await timers(play, Phase("cart_add", play.size(50_000), together=True, prefix="many"), 15)
    return {
        **many,
        "delivered_10k_s": few["delivered_s"],
        "lateness_10k_ms": few["lateness_ms"],
        "correct": few["correct"] and many["correct"],
    }


async def timers(play: Play, phase: Phase, wait_s: int) -> Figures:
    """Carts that nobody buys: each timer is a delivery."""
    play.say("sending")
    (sent,) = await play.stage.send([phase])
    last_due_us = sent.last_us + wait_s * _SECOND_US
    if phase.together and sent.ended_us > last_due_us:
        raise AssertionError("this machine is too slow: events were still coming when the timers were due")
    play.say("waiting for the timers")
    before = play.stage.cpu()
    drained = await play.stage.drained(last_due_us)
    used = used_between(before, play.stage.cpu())
    found = await read_deliveries(play.stage, phase.prefix, sent.began_us)
    verdict = judge_carts((phase, sent), None, wait_s * _SECOND_US, found)
    delivered_s = (found.last_us - last_due_us) / _SECOND_US
    return {
        "timers": len(phase.places),
        "events_per_s": round(sent.events / sent.seconds),
        "delivered_s": round(delivered_s, 2),
        "cpu_us_a_timer": {
            name: round(value / len(phase.places) * 1_000_000, 1) for name, value in used.items()
        },
        **_timed(drained, found, verdict, last_due_us),
    }


def _timed(drained: float, found: Deliveries, verdict: Verdict, last_due_us: int) -> Figures:
    wrong = {**verdict.wrong, **({"unsettled": found.unsettled} if found.unsettled else {})}
    return {
        "lateness_ms": percentiles(found.lateness_ms),
        "drain_s": round(max(0.0, drained - last_due_us / _SECOND_US), 2),
        "correct": not wrong,
        "judged": verdict.judged,
        "ambiguous": verdict.ambiguous,
        "wrong": wrong,
    }


async def noise(play: Play) -> Figures:
    """Ten page views to each event that matters."""
    await play.stage.publish(CARTS.format(wait=10))
    await play.carts(range(2_000), 10, prefix="warm")
    return await play.carts(range(play.size(60_000)), 10, noise=10)


async def journeys(play: Play) -> Figures:
    """Carts with 1, 10, 100 and 1,000 live journeys of which an event concerns one."""
    await play.stage.publish(CARTS.format(wait=5))
    await play.carts(range(2_000), 5, prefix="warm")
    rates: dict[str, int] = {}
    runs: list[Figures] = []
    live = 1
    for wanted in (1, 10, 100, 1_000):
        play.say(f"publishing up to {wanted:,} journeys")
        if wanted > live:
            await play.stage.publish("---".join(OTHER.format(number=each) for each in range(live, wanted)))
        live = wanted
        places = range(play.size(20_000))
        these = [await play.carts(places, 5, prefix=f"of{wanted}-{number}") for number in range(3)]
        rates[str(wanted)] = _median_rate(these)
        runs += these
    return {
        **runs[-1],
        "events_per_s": rates["1000"],
        "rates": rates,
        "ratio": round(rates["1000"] / rates["1"], 3),
        "correct": all(run["correct"] for run in runs),
    }


async def profiles(play: Play) -> Figures:
    """Carts over 10,000 stored profiles, and over 1,000,000 with as many pending timers."""
    await play.stage.publish(KEEP.format())
    await play.stage.publish(CARTS.format(wait=3))
    rates: dict[str, int] = {}
    runs: list[Figures] = []
    stored = 0
    count = play.size(10_000)
    for wanted in (count, play.size(1_000_000)):
        play.say(f"storing {wanted:,} profiles")
        await play.stage.send([Phase("signed_up", wanted, stored)])
        stored = wanted
        await play.stage.drained(0)
        # Evenly over all that are stored: of the many no cache holds them.
        these = [
            await play.carts(
                range(number % (stored // count), stored, stored // count), 3, round_=len(runs) + number
            )
            for number in range(5)
        ]
        rates[str(wanted)] = _median_rate(these)
        runs += these
    small, large = rates.values()
    return {
        **runs[-1],
        "events_per_s": large,
        "rates": rates,
        "ratio": round(large / small, 3),
        "correct": all(run["correct"] for run in runs),
    }


def _median_rate(runs: Sequence[Figures]) -> int:
    return round(statistics.median(run["events_per_s"] for run in runs))


async def unary(play: Play) -> Figures:
    """One event a call, 64 calls under way."""
    await play.stage.publish(CARTS.format(wait=10))
    await play.carts(range(2_000), 10, prefix="warm")
    return await play.carts(range(play.size(20_000)), 10, unary=True)


async def overload(play: Play) -> Figures:
    """Carts as one stream brings them, and as twelve bring them at once: far more than can be taken."""
    await play.stage.publish(CARTS.format(wait=10))
    await play.carts(range(2_000), 10, prefix="warm")
    count = play.size(50_000)
    best = await play.carts(range(count), 10, prefix="one")
    flood = await play.carts(range(count), 10, prefix="flood", streams=12)
    return {
        **flood,
        "rates": {"1": best["events_per_s"], "12": flood["events_per_s"]},
        "ratio": round(flood["events_per_s"] / best["events_per_s"], 3),
        "correct": best["correct"] and flood["correct"],
    }


class MailStandIn:
    """A mail server as a process, which notes when each message had arrived; its `options` are those of its command."""

    def __init__(self, *options: str) -> None:
        self._options = options

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="cairn-bench-mail-")
        self.folder = Path(self._folder.name)
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "cairn.testing.mail_server",
                "--mailbox",
                str(self.folder),
                *self._options,
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.port: int = json.loads(self._process.stdout.readline())["port"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


def _described(profile_id: str, email: str) -> pb.Profile:
    profile = pb.Profile(profile_id=profile_id)
    profile.attributes.update({"email": email, "name": "Ada"})
    return profile


async def latency(play: Play) -> Figures:
    """100 events a second, no wait, an e-mail each: from the event to the mail server's DATA."""
    with MailStandIn() as mail:
        await play.stage.publish(GREETING.format(port=mail.port))
        count = play.size(2_000)
        await play.stage.describe(
            [_described(profile_of("p", place), f"{place}@example.test") for place in range(count + 100)]
        )
        play.say("sending")
        warm = Phase("signed_up", count + 100, count, rate=100, window=32, unary=True)
        phase = Phase("signed_up", count, rate=100, window=32, unary=True)
        _, sent = await play.stage.send([warm, phase])
        await play.stage.drained(0)
        arrived: dict[int, list[int]] = {}
        for entry in read_index(mail.folder):
            for address in entry["to"]:
                arrived.setdefault(int(address.partition("@")[0]), []).append(
                    from_datetime(datetime.fromisoformat(entry["time"]))
                )
        times = sent.times(phase)
        late = [
            (arrived[place][0] - time_us) / 1000 for place, (time_us, _) in times.items() if place in arrived
        ]
        verdict = Verdict()
        for place in times:
            verdict.of(1, len(arrived.get(place, [])))
        return {
            "events_per_s": round(sent.events / sent.seconds),
            "event_to_data_ms": percentiles(late),
            "correct": not verdict.wrong,
            "judged": verdict.judged,
            "wrong": dict(verdict.wrong),
        }


Workload = Callable[[Play], Awaitable[Figures]]

WORKLOADS: Mapping[str, Workload] = {
    "carts": carts,
    "spread": spread,
    "burst": burst,
    "noise": noise,
    "journeys": journeys,
    "profiles": profiles,
    "latency": latency,
    "unary": unary,
    "overload": overload,
}
"""By name, in the order in which they run."""
