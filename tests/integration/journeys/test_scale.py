"""The worked cases that take more than one profile and more than one process: replicas, outages, hundreds in two versions."""

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
from house import Cairn, MailBox, chunks, event, until

from cairn.api.activation.v1 import activation_pb2
from cairn.api.activation.v1.activation_pb2_grpc import ActivationServiceStub
from cairn.api.definition.v1 import definition_pb2
from cairn.api.definition.v1.definition_pb2_grpc import DefinitionServiceStub
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.evaluator.store import RowKind
from cairn.journey.document import read_documents
from cairn.journey.state import Transition
from cairn.postgres.bucket import bucket_of
from cairn.runtime.clock import now_us
from cairn.testing.ports import closed_port

SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
STATES = activation_pb2.DeliveryState
_TRANSITIONS = msgspec.json.Decoder(tuple[Transition, ...])

CART = """
connection: {{name: ledger, log: {{}}}}
---
name: {name}
type: REAL_TIME
goal: {{criteria: event.name == "{name}-purchase"}}
reentry: {{mode: ALWAYS}}
stages:
  - name: cart
    entry: event.name == "{name}-add"
    steps:
      - wait: {{duration: {wait}}}
      - activation: {{channel: ledger}}
"""
BEGUN = ["ENTERED", "STAGE_ENTERED", "WAIT_STARTED"]
REMINDED = ["WAIT_ENDED", "ACTIVATION_REQUESTED", "RESTED"]


class Ledger:
    """What is stored of many profiles at once; asking for one at a time would take longer than all that is tested."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection

    async def count(self, table: str) -> int:
        return int(await self.connection.fetchval(f"SELECT count(*) FROM {table}"))

    async def transitions(self, prefix: str) -> dict[str, list[tuple[int, Transition]]]:
        """Transitions of the profiles whose ids begin so, each with when it was recorded, oldest first."""
        rows = await self.connection.fetch(
            "SELECT profile_id, (extract(epoch FROM record_time) * 1000000)::bigint AS record_us, entries::text AS entries "
            "FROM evaluator.timeline WHERE starts_with(profile_id, $1) AND kind = $2 ORDER BY record_time, row_id",
            prefix,
            int(RowKind.TRANSITIONS),
        )
        found: dict[str, list[tuple[int, Transition]]] = {}
        for row in rows:
            told = [(row["record_us"], each) for each in _TRANSITIONS.decode(row["entries"])]
            found.setdefault(row["profile_id"], []).extend(told)
        return found

    async def kinds(self, prefix: str) -> dict[str, list[str]]:
        found = await self.transitions(prefix)
        return {who: [each.kind.name for _, each in told] for who, told in found.items()}


@pytest.fixture
async def ledger(replicated) -> AsyncIterator[Ledger]:
    connection = await asyncpg.connect(replicated.suite.dsn)
    yield Ledger(connection)
    await connection.close()


async def deliveries(cairn: Cairn, journey: str) -> list[activation_pb2.Delivery]:
    stub = ActivationServiceStub(cairn.channel("activation"))
    request = activation_pb2.ListDeliveriesRequest(journey=f"journeys/{journey}", page_size=1000)
    found: list[activation_pb2.Delivery] = []
    while True:
        answer = await stub.ListDeliveries(request, timeout=20, wait_for_ready=True)
        found += answer.deliveries
        request.page_token = answer.next_page_token
        if not answer.next_page_token:
            return found


async def send(cairn: Cairn, events: Sequence[pb.Event], evaluator: str = "evaluator") -> None:
    for batch in chunks(events, 1000):
        await cairn.send(batch, evaluator=evaluator)


async def send_to_both(replicated: Any, cairn: Cairn, events: Sequence[pb.Event]) -> None:
    """Half of them to each replica, side by side."""
    halves = enumerate(replicated.evaluators)
    await asyncio.gather(*(send(cairn, events[half::2], evaluator) for half, evaluator in halves))


def ids(name: str, count: int) -> list[str]:
    return [f"{name}-{number:05}" for number in range(count)]


async def test_ten_thousand_waits_that_came_due_while_the_scheduler_was_down(
    replicated, cairn: Cairn, ledger: Ledger
) -> None:
    """All act on its return, in order of due time, each once, and each at its own time."""
    suite = replicated.suite
    await cairn.publish(CART.format(name="outage", wait="3h"))
    profiles = ids("outage", 10_000)
    # Due one by one in the last hour, in an order that has nothing to do with the ids.
    due_us = now_us() - HOUR_US
    shuffled = random.sample(profiles, len(profiles))
    dues = {who: due_us + place * HOUR_US // len(profiles) for place, who in enumerate(shuffled)}
    # The Scheduler reaches nobody, so that all are in its table when it goes, and none has acted.
    suite.stop_service("evaluator")
    await send(
        cairn,
        [event(who, "outage-add", time_us=dues[who] - 3 * HOUR_US) for who in profiles],
        replicated.evaluators[1],
    )
    timers = "scheduler.timers WHERE starts_with(key, 'outage-')"
    done = f"activation.deliveries WHERE starts_with(profile_id, 'outage-') AND state = {STATES.DELIVERY_STATE_SENT}"

    async def all_are_taken() -> bool:
        return await ledger.count(timers) == len(profiles)

    await until(all_are_taken, "the Scheduler has all timers")
    suite.kill_service("scheduler")
    suite.start_service("evaluator")
    assert set(map(tuple, (await ledger.kinds("outage-")).values())) == {tuple(BEGUN)}
    suite.start_service("scheduler")

    async def all_are_sent() -> bool:
        return not await ledger.count(f"{timers} AND due_time <= now()") and await ledger.count(done) == len(
            profiles
        )

    await until(all_are_sent, "everybody is reminded")

    told = await ledger.transitions("outage-")
    assert {who: [each.kind.name for _, each in told[who]] for who in profiles} == dict.fromkeys(
        profiles, BEGUN + REMINDED
    )
    assert all(each.time_us == dues[who] for who in profiles for _, each in told[who][3:])
    sent = await deliveries(cairn, "outage")
    assert sorted(each.profile_id for each in sent) == profiles
    # Buckets are worked on side by side; within each it goes by due time.
    (buckets,) = await ledger.connection.fetchrow("SELECT bucket_count FROM cairn.database")
    acted: dict[int, list[int]] = {}
    for who in shuffled:
        acted.setdefault(bucket_of(who, buckets), []).append(told[who][3][0])
    assert {bucket: times == sorted(times) for bucket, times in acted.items()} == dict.fromkeys(acted, True)
    # There was something to be in order: more than goes in one call.
    assert all(len(set(times)) > 1 for times in acted.values())


async def test_version_two_is_published_while_five_hundred_are_in_version_one(
    replicated, cairn: Cairn, ledger: Ledger
) -> None:
    suite, name = replicated.suite, "versions"
    await cairn.publish(CART.format(name=name, wait="3h"))
    old, new = ids(f"{name}-old", 500), ids(f"{name}-new", 100)
    begun_us = now_us() - 4 * HOUR_US
    # What is due waits for its Scheduler until version 2 has long been live.
    suite.kill_service("scheduler")
    await send_to_both(replicated, cairn, [event(who, f"{name}-add", time_us=begun_us) for who in old])

    second = CART.format(name=name, wait="2h").replace("name: cart", "name: basket")
    (journey,) = [each.message for each in read_documents(second)[0] if each.kind == "journey"]
    definition = DefinitionServiceStub(cairn.channel("definition"))
    await definition.UpdateJourney(definition_pb2.UpdateJourneyRequest(journey=journey))
    items = [definition_pb2.PublishItem(name=f"journeys/{name}")]
    published = await definition.PublishJourneys(definition_pb2.PublishJourneysRequest(items=items))
    assert [each.version for each in published.versions] == [2]
    cairn.revision = published.revision

    await send_to_both(replicated, cairn, [event(who, f"{name}-add", time_us=begun_us) for who in new])
    assert set(map(tuple, (await ledger.kinds(f"{name}-")).values())) == {tuple(BEGUN)}
    suite.start_service("scheduler")

    async def all_are_sent() -> bool:
        return len(await deliveries(cairn, name)) >= len(old) + len(new)

    await until(all_are_sent, "all are through")
    assert Counter(
        (each.profile_id, each.journey_version, each.stage) for each in await deliveries(cairn, name)
    ) == {
        **{(who, f"journeys/{name}/versions/1", "cart"): 1 for who in old},
        **{(who, f"journeys/{name}/versions/2", "basket"): 1 for who in new},
    }
    told = await ledger.transitions(f"{name}-")
    assert {who: {each.version for _, each in all_of_it} for who, all_of_it in told.items()} == {
        **{who: {1} for who in old},
        **{who: {2} for who in new},
    }
    assert all(told[who][-1][1].time_us == begun_us + 3 * HOUR_US for who in old)
    assert all(told[who][-1][1].time_us == begun_us + 2 * HOUR_US for who in new)


LOGINS = """
name: logins
type: REAL_TIME
reentry: {mode: ALWAYS}
stages:
  - name: regular
    entry: event.name == "logins-in" && count("logins-in") == 3
    steps: [{wait: {duration: 20d}}]
"""


async def test_a_third_login_that_comes_to_one_replica_while_another_stores_the_second(
    replicated, cairn: Cairn, ledger: Ledger
) -> None:
    """`count` sees three: whichever of the three is stored last, and only that one, begins the journey."""
    await cairn.publish(LOGINS)
    first, second = replicated.evaluators
    lost = await swaps_lost(replicated)
    began_us = now_us()
    profiles: list[str] = []
    # Until they have met on some: whoever came too late to store what it had computed has to look again.
    for number in range(20):
        profiles += (newest := ids(f"logins-{number}", 100))
        calls = []
        for batch in (newest[start : start + 5] for start in range(0, len(newest), 5)):
            for login, evaluator in ((1, first), (2, second), (3, first), (1, second), (3, second)):
                # Some come twice, to the other replica: they count once.
                events = [event(who, "logins-in", login, began_us + login) for who in batch]
                calls.append(cairn.send(events, evaluator=evaluator))
        random.shuffle(calls)
        await asyncio.gather(*calls)
        if await swaps_lost(replicated) > lost + 10:
            break
    else:
        pytest.fail("the two replicas never met")
    assert await ledger.kinds("logins-") == dict.fromkeys(profiles, BEGUN)


async def swaps_lost(replicated: Any) -> float:
    """How often an Evaluator found that another had been faster, by their metrics."""
    total = 0.0
    for evaluator in replicated.evaluators:
        url = f"{replicated.suite.instances[evaluator].http_url}/metrics"
        text = (await asyncio.to_thread(urllib.request.urlopen, url)).read().decode()
        total += float(re.findall(r"^cairn_evaluator_swaps_lost_total (\S+)", text, re.MULTILINE)[0])
    return total


MAIL = """
connection:
  name: mail-{name}
  smtp: {{host: 127.0.0.1, port: {port}, security: NONE, from_address: shop@example.test}}
---
template: {{name: still-there, subject: Your cart, text: Still there.}}
"""


async def test_a_purchase_takes_back_a_reminder_that_was_held_back(
    replicated, cairn: Cairn, ledger: Ledger, tmp_path: Path
) -> None:
    """Mail can't leave for a while, as in quiet hours. Who buys meanwhile is never reminded; the others are, once."""
    name = "taken-back"
    buyers, others = ids(f"{name}-buyer", 50), ids(f"{name}-other", 50)
    everybody = sorted(buyers + others)

    async def states() -> dict[str, str]:
        return {each.profile_id: STATES.Name(each.state) for each in await deliveries(cairn, name)}

    async def all_are_asked_for() -> bool:
        return len(await states()) == len(everybody)

    async def all_are_taken_back() -> bool:
        return Counter((await states()).values())["DELIVERY_STATE_WITHDRAWN"] == len(buyers)

    async def others_are_reminded() -> bool:
        return Counter((await states()).values())["DELIVERY_STATE_SENT"] == len(others)

    with closed_port() as port:
        mail = MAIL.format(name=name, port=port) + "---" + CART.format(name=name, wait="3h")
        await cairn.publish(
            mail.replace("{channel: ledger}", f"{{channel: mail-{name}, template: still-there}}")
        )
        await cairn.describe(everybody)
        began_us = now_us() - 4 * HOUR_US
        await send(cairn, [event(who, f"{name}-add", time_us=began_us) for who in everybody])
        await until(all_are_asked_for, "Activation knows of every reminder")
        # They come to the replica that did not ask for the reminders.
        purchases = [event(who, f"{name}-purchase", time_us=began_us + 4 * HOUR_US) for who in buyers]
        await send(cairn, purchases, replicated.evaluators[1])
        await until(all_are_taken_back, "the reminders of those who bought are taken back")
    with mail_server(tmp_path, port) as mailbox:
        # Their connection rests for up to half a minute at a time by then: a machine that is busy has tried often.
        await until(others_are_reminded, "the others are reminded", seconds=120.0)
        assert mailbox.recipients() == Counter(f"{who}@example.test" for who in others)
    assert await states() == {
        **dict.fromkeys(buyers, "DELIVERY_STATE_WITHDRAWN"),
        **dict.fromkeys(others, "DELIVERY_STATE_SENT"),
    }
    reminded = [*BEGUN, *REMINDED]
    assert await ledger.kinds(name) == {
        **{who: [*reminded, "ACTIVATION_WITHDRAWN", "GOAL_ACHIEVED"] for who in buyers},
        **dict.fromkeys(others, reminded),
    }


@contextmanager
def mail_server(folder: Path, port: int) -> Iterator[MailBox]:
    process = subprocess.Popen(
        [sys.executable, "-m", "cairn.testing.mail_server", "--port", str(port), "--mailbox", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "CAIRN_DIE_WITH_PARENT": "1"},
    )
    assert process.stdout is not None
    assert process.stdout.readline(), "the mail server did not start"
    try:
        yield MailBox(folder, port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        process.stdout.close()
