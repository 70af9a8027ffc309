"""A process that dies leaves each delivery as promised: LEASED is sent, SENDING by mail is UNKNOWN, nothing is sent twice."""

import asyncio
from collections import Counter

from cairn.activation.channels import smtp
from cairn.api.activation.v1 import activation_pb2 as pb

MOST_IN_DOUBT = smtp._TURNS * smtp._MESSAGES_PER_CONNECTION * smtp.DEFAULT_POOL_SIZE
"""What is past the point of no return when a process dies: two turns' batches."""


async def test_killed_while_sending(
    activation_process, make, mail_server, rows, receipt_sink, eventually
) -> None:
    slow = await mail_server("--slow", "600")
    first = await activation_process()
    await first.put(make.smtp_connection(slow.port), make.template())
    requests = make.batch(make.mail, "m", 120)
    await first.activate(*requests)
    await eventually(lambda: len(slow.received()) >= 4)
    await first.kill()
    states = {
        row["activation_id"]: row["state"]
        for row in await rows("SELECT activation_id, state FROM deliveries")
    }
    counts = Counter(states.values())
    in_doubt = {id_ for id_, state in states.items() if state == pb.DELIVERY_STATE_SENDING}
    assert counts[pb.DELIVERY_STATE_LEASED], "some batches wait for their turn"
    assert 4 <= len(in_doubt) <= MOST_IN_DOUBT, "no more than two turns are past the point of no return"
    assert set(slow.activations()) <= in_doubt
    await slow.stop()
    await mail_server(port=slow.port)

    second = await activation_process()
    found = await second.settled(120)
    unknown = {id_ for id_, d in found.items() if d.state == pb.DELIVERY_STATE_UNKNOWN}
    assert unknown == in_doubt
    assert all(d.state == pb.DELIVERY_STATE_SENT for id_, d in found.items() if id_ not in unknown)
    mails = Counter(slow.activations())
    assert set(mails) >= set(found) - unknown
    assert max(mails.values()) == 1
    await eventually(lambda: len(receipt_sink.states) == 120)


async def test_killed_while_an_audience_is_called_asks_again(
    activation_process, make, meta_platform, eventually
) -> None:
    await meta_platform.misbehave("hang", 1)
    first = await activation_process()
    await first.put(make.meta_connection(meta_platform.port))
    await first.activate(make.audience("add", "ada"))

    async def hangs() -> bool:
        return (await meta_platform.state())["counts"].get("misbehaved_hang") == 1

    await eventually(hangs)
    assert (await first.deliveries())["add"].state == pb.DELIVERY_STATE_SENDING
    await first.kill()
    second = await activation_process()
    assert (await second.settled(1))["add"].state == pb.DELIVERY_STATE_SENT
    assert (await meta_platform.state())["counts"]["added"] == 1


async def test_killed_again_and_again_under_load(activation_process, make, mail_server, eventually) -> None:
    server = await mail_server("--slow", "0.002")
    replica = await activation_process()
    await replica.put(make.smtp_connection(server.port), make.template())
    await replica.activate(*make.batch(make.mail, "m", 600))
    # What each kill left in doubt never comes.
    most = 600 - 3 * MOST_IN_DOUBT
    for _ in range(3):
        reached = len(server.received()) + 100
        await eventually(lambda reached=reached: len(server.received()) >= min(reached, most))
        await replica.kill()
        replica = await activation_process()
    found = await replica.settled(600, seconds=60)
    mails = Counter(server.activations())
    states = Counter(d.state for d in found.values())
    assert max(mails.values()) == 1
    assert set(states) <= {pb.DELIVERY_STATE_SENT, pb.DELIVERY_STATE_UNKNOWN}
    assert states[pb.DELIVERY_STATE_UNKNOWN] <= 3 * MOST_IN_DOUBT
    assert all(mails[id_] == 1 for id_, d in found.items() if d.state == pb.DELIVERY_STATE_SENT)


async def test_a_stop_leaves_nothing_in_doubt(
    activation_process, make, mail_server, rows, eventually
) -> None:
    server = await mail_server("--slow", "0.1")
    first = await activation_process()
    await first.put(make.smtp_connection(server.port), make.template())
    await first.activate(*make.batch(make.mail, "m", 200))
    await eventually(lambda: len(server.received()) >= 20)
    assert await first.stop() == 0
    states = Counter(row["state"] for row in await rows("SELECT state FROM deliveries"))
    assert set(states) == {pb.DELIVERY_STATE_PENDING, pb.DELIVERY_STATE_SENT}
    assert states[pb.DELIVERY_STATE_SENT] == len(server.received())
    second = await activation_process()
    await second.settled(200)
    assert Counter(server.activations()) == Counter(f"m-{n}" for n in range(200))


async def test_two_replicas_share_the_work_and_one_takes_over(
    activation_process, make, mail_server, eventually
) -> None:
    server = await mail_server("--slow", "0.002")
    first, second = await activation_process(), await activation_process()
    await first.put(make.smtp_connection(server.port), make.template())
    await asyncio.gather(
        first.activate(*make.batch(make.mail, "a", 150)), second.activate(*make.batch(make.mail, "b", 150))
    )
    await eventually(lambda: len(server.received()) > 100)
    await first.kill()
    found = await second.settled(300)
    mails = Counter(server.activations())
    assert max(mails.values()) == 1
    assert all(mails[id_] == 1 for id_, d in found.items() if d.state == pb.DELIVERY_STATE_SENT)
    assert sum(d.state == pb.DELIVERY_STATE_UNKNOWN for d in found.values()) <= MOST_IN_DOUBT
