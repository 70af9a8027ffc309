"""From a received mail to nothing more of it: one click at the address in its header, and a second that changes nothing."""

import email.policy
from email.parser import BytesParser

import aiohttp
from house import CART, Cairn, MailBox, event, until

from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.activation.v1.activation_pb2_grpc import ActivationServiceStub

ONE_CLICK = {"List-Unsubscribe": "One-Click"}


async def suppressions(cairn: Cairn) -> list[pb.Suppression]:
    stub = ActivationServiceStub(cairn.channel("activation"))
    return list((await stub.ListSuppressions(pb.ListSuppressionsRequest())).suppressions)


def link_of(mailbox: MailBox, recipient: str) -> str:
    parser = BytesParser(policy=email.policy.default)
    mails = [parser.parsebytes(file.read_bytes()) for file in mailbox.folder.glob("*.eml")]
    (mail,) = [each for each in mails if each["To"] == recipient]
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    return str(mail["List-Unsubscribe"]).strip("<>")


async def test_a_click_suppresses_and_a_second_is_harmless(cairn: Cairn, mailbox: MailBox) -> None:
    connection = (
        f"smtp: {{host: 127.0.0.1, port: {mailbox.port}, security: NONE, from_address: a@example.com}}"
    )
    await cairn.publish(CART.format(connection=connection, wait="1s"))
    await cairn.describe(["ann", "bob"])
    await cairn.send([event("ann", "cart_add"), event("bob", "cart_add")])
    await until(lambda: mailbox.recipients().total() == 2, "both mails arrived")

    link = link_of(mailbox, "ann@example.test")
    assert link.startswith(f"{cairn.suite.public_url}/u/")
    async with aiohttp.ClientSession() as session:
        async with session.get(link) as shown:
            assert shown.status == 200
        assert await suppressions(cairn) == [], "looking changes nothing: mail scanners look at every link"
        told = []
        for _ in range(2):
            async with session.post(link, data=ONE_CLICK) as answer:
                assert answer.status == 200
            told.append(await suppressions(cairn))
        async with session.post(link[:-4] + "AAAA", data=ONE_CLICK) as forged:
            assert forged.status == 404
    assert [(each.address, each.connection, each.reason) for each in told[0]] == [
        ("ann@example.test", "connections/email", pb.SUPPRESSION_REASON_UNSUBSCRIBE)
    ]
    assert told[1] == told[0], "a second click changes nothing, not even since when"

    await cairn.send([event("ann", "cart_add", 2), event("bob", "cart_add", 2)])
    await until(lambda: mailbox.recipients()["bob@example.test"] == 2, "the other still gets mail")

    async def refused() -> bool:
        states = {each.state for each in await cairn.deliveries() if each.profile_id == "ann"}
        return states == {pb.DELIVERY_STATE_SENT, pb.DELIVERY_STATE_REFUSED}

    await until(refused, "the second mail to ann is refused")
    assert mailbox.recipients()["ann@example.test"] == 1
