"""A mail that quiet hours hold back is not sent any more once its reason is gone: the goal withdraws it."""

from datetime import UTC, datetime, timedelta

from house import CART, Cairn, MailBox, event, until

from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.activation.v1.activation_pb2_grpc import ActivationServiceStub


async def deliveries(cairn: Cairn) -> dict[str, pb.Delivery]:
    stub = ActivationServiceStub(cairn.channel("activation"))
    found = (await stub.ListDeliveries(pb.ListDeliveriesRequest())).deliveries
    return {each.profile_id: each for each in found}


async def test_a_goal_withdraws_a_mail_that_is_held_by_quiet_hours(cairn: Cairn, mailbox: MailBox) -> None:
    now = datetime.now(UTC)
    start, end = ((now + timedelta(hours=hours)).strftime("%H:%M") for hours in (-2, 2))
    connection = (
        f"smtp: {{host: 127.0.0.1, port: {mailbox.port}, security: NONE, from_address: a@example.com}}, "
        f'quiet_hours: {{start: "{start}", end: "{end}", fallback_time_zone: UTC}}'
    )
    await cairn.publish(CART.format(connection=connection, wait="1s"))
    await cairn.describe(["ann", "bob"])
    await cairn.send([event("ann", "cart_add"), event("bob", "cart_add")])

    async def both_held() -> bool:
        found = await deliveries(cairn)
        return len(found) == 2 and all("quiet hours" in each.detail for each in found.values())

    await until(both_held, "both reminders are held")
    held = await deliveries(cairn)
    assert {each.state for each in held.values()} == {pb.DELIVERY_STATE_PENDING}
    assert held["ann"].next_attempt_time.ToDatetime(UTC) > now + timedelta(hours=1)

    await cairn.send([event("ann", "purchase")])

    async def withdrawn() -> bool:
        return (await deliveries(cairn))["ann"].state == pb.DELIVERY_STATE_WITHDRAWN

    await until(withdrawn, "the goal withdrew the reminder")
    found = await deliveries(cairn)
    assert "goal" in found["ann"].detail
    assert found["bob"].state == pb.DELIVERY_STATE_PENDING, "nobody else is concerned"
    assert not mailbox.recipients()
