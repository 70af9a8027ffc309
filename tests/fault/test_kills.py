"""Promises 1 to 4 and 8 under kills: SIGKILL at random moments, and yet everybody is mailed once, or for a reason not at all."""

import asyncio
import random

from house import CART, FINAL, Cairn, MailBox, chunks, count_in_flight, event, time_of, until

from cairn.api.activation.v1 import activation_pb2
from cairn.cli.suite import Suite

PROFILES = 400
KILLED = ("evaluator", "scheduler", "activation")
WAIT_US = 12_000_000


async def test_kills_under_load(suite: Suite, cairn: Cairn, mailbox: MailBox) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    smtp = f"smtp: {{host: 127.0.0.1, port: {mailbox.port}, security: NONE, from_address: shop@example.test}}"
    await cairn.publish(CART.format(connection=smtp, wait="3h"))
    ids = [f"p{number}" for number in range(PROFILES)]
    purchasers = set(ids[::2])
    await cairn.describe(ids)

    loaded = asyncio.Event()
    in_flight = 0
    # Whose purchase was heard of so late, while a service was away, that a reminder is right as well.
    late: set[str] = set()

    async def kill() -> None:
        nonlocal in_flight
        while not loaded.is_set() or not await settled(cairn):
            name = chance.choice(KILLED)
            await asyncio.sleep(chance.uniform(0.3, 1.2))
            suite.kill_service(name)
            if name == "activation":
                in_flight += await count_in_flight(suite.dsn)
            suite.launch(name)
            # Long enough that each comes to work again, short enough that it is struck while it catches up.
            await asyncio.sleep(chance.uniform(0.8, 2.0))

    async def settled(cairn: Cairn) -> bool:
        try:
            deliveries = await asyncio.wait_for(cairn.deliveries(), 2)
        except Exception:
            return False
        return {each.profile_id for each in deliveries if each.state in FINAL} >= set(ids) - purchasers

    async def load() -> None:
        for batch in chunks(ids, 10):
            carts = [event(each, "cart_add") for each in batch]
            await cairn.send(carts)
            bought = [event(each, "purchase") for each in batch if each in purchasers]
            acknowledged = await cairn.send(bought)
            if acknowledged >= min(time_of(cart) for cart in carts) + WAIT_US:
                late.update(purchasers & set(batch))
            await asyncio.sleep(0.05)
        loaded.set()

    async with asyncio.timeout(150):
        await asyncio.gather(kill(), load())
    for name in KILLED:
        suite.wait_ready(name)
    await until(lambda: settled(cairn), "every delivery has its fate")
    await asyncio.sleep(2)  # what must not come is given the time to come

    deliveries = await cairn.deliveries()
    states = {each.profile_id: each.state for each in deliveries}
    unknown = {each for each, state in states.items() if state == activation_pb2.DELIVERY_STATE_UNKNOWN}
    mails = mailbox.recipients()
    assert len(late) < len(purchasers) // 2, "most purchases came in time"
    assert set(ids) - purchasers <= set(states) <= set(ids) - (purchasers - late)
    count = {each: mails[f"{each}@example.test"] for each in ids}
    assert {each for each in purchasers - late if count[each]} == set()
    assert {each for each in set(states) - unknown - late if count[each] != 1} == set()
    assert all(count[each] <= 1 for each in unknown | late)
    assert len(unknown) <= in_flight
    assert len(deliveries) == len(states)


async def test_the_outbox_of_a_killed_evaluator_is_sent_by_another(suite: Suite, cairn: Cairn) -> None:
    await cairn.publish(
        CART.format(connection="log: {}", wait="3h").replace("wait: {duration: 3h}", "wait: {duration: 15m}")
    )
    suite.stop_service("scheduler")
    replica = suite.add_replica("evaluator")
    ids = [f"p{number}" for number in range(50)]
    # Nobody takes timers: they can only be in the outbox of the one that was told.
    await cairn.send([event(each, "cart_add") for each in ids], evaluator=replica)
    suite.kill_service(replica)
    suite.start_service("scheduler")

    async def all_sent() -> bool:
        deliveries = await cairn.deliveries()
        return sum(each.state == activation_pb2.DELIVERY_STATE_SENT for each in deliveries) == len(ids)

    await until(all_sent, "the timers of the killed replica have fired")


async def test_the_same_events_delivered_five_times_to_three_replicas_act_once(
    suite: Suite, cairn: Cairn
) -> None:
    await cairn.publish(CART.format(connection="log: {}", wait="5m"))
    second, third = suite.add_replica("evaluator"), suite.add_replica("evaluator")
    ids = [f"p{number}" for number in range(200)]
    carts = [event(each, "cart_add") for each in ids]
    rounds = [
        cairn.send(batch, evaluator=name)
        for batch in chunks(carts, 20)
        for name in ("evaluator", second, third, "evaluator", second)
    ]
    await asyncio.gather(*rounds)

    async def all_sent() -> bool:
        deliveries = await cairn.deliveries()
        return sum(each.state == activation_pb2.DELIVERY_STATE_SENT for each in deliveries) >= len(ids)

    await until(all_sent, "everybody was reminded")
    await asyncio.sleep(1)
    assert sorted(each.profile_id for each in await cairn.deliveries()) == sorted(ids)
