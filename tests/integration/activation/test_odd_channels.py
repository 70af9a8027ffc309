"""A channel of another package that breaks the rules: each delivery ends as its guarantee says, and none is sent twice because of it."""

import sys

import pytest

from cairn.activation.channels import plugin
from cairn.api.activation.v1 import activation_pb2 as pb

SENT, FAILED, UNKNOWN = pb.DELIVERY_STATE_SENT, pb.DELIVERY_STATE_FAILED, pb.DELIVERY_STATE_UNKNOWN

SOURCE = """
import asyncio
from cairn.activation.channels.base import ChannelKind
from cairn.activation.ledger import Fate, Guarantee, Outcome

CALLS = []

class Odd:
    ordered, batch_size = False, 10
    def __init__(self, connection, tools):
        self.mode = connection.plugin.settings["mode"]
        self.linger_s = 3600.0 if self.mode == "patient" else 0.0
        self.turns = asyncio.Semaphore(1)
    def prepare(self, letter):
        if self.mode == "prepare":
            raise RuntimeError("somebody@example.com")
        return letter.claim.activation_id
    def address_of(self, prepared): return ""
    def member_of(self, prepared):
        raise RuntimeError("somebody@example.com")
    async def open(self):
        if self.mode == "open":
            raise RuntimeError("somebody@example.com")
    async def send(self, prepared):
        CALLS.extend(prepared)
        if self.mode == "raises":
            raise RuntimeError("somebody@example.com")
        if self.mode in ("held", "refused"):
            return [Outcome(Fate(self.mode), "not now")] * len(prepared)
        sent = [Outcome(Fate.SENT, "flew")] * len(prepared)
        return {"too few": sent[1:], "garbage": [None] * len(prepared), "nothing": None}.get(self.mode, sent)
    async def close(self): pass

def kind(guarantee, needs_action=False):
    return ChannelKind("odd", guarantee, lambda connection, findings: None, Odd, needs_action=needs_action)

ONCE, OFTEN = kind(Guarantee.AT_MOST_ONCE), kind(Guarantee.AT_LEAST_ONCE)
AUDIENCE = kind(Guarantee.AT_LEAST_ONCE, needs_action=True)
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The activations that reached the channel, each as often as it did."""
    (tmp_path / "odd_channel.py").write_text(SOURCE)
    info = tmp_path / "odd_channel-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-channel\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[cairn.activation.channels]\n"
        "once = odd_channel:ONCE\noften = odd_channel:OFTEN\naudience = odd_channel:AUDIENCE\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import odd_channel

    yield odd_channel.CALLS
    plugin.cache_clear()
    sys.modules.pop("odd_channel", None)


def odd(channel: str, mode: str) -> pb.Connection:
    made = pb.Connection(name="connections/odd", plugin=pb.PluginConnection(channel=channel))
    made.plugin.settings.update({"mode": mode})
    return made


@pytest.mark.parametrize("mode", ["raises", "too few", "garbage", "nothing"])
async def test_what_may_have_arrived_is_in_doubt(activation, make, calls, mode) -> None:
    replica = await activation()
    await replica.put(odd("once", mode), make.log_connection())
    await replica.activate(*(make.mail(f"e-{n}", "ada", connection="odd", template="") for n in range(4)))
    await replica.activate(make.log("beside"))
    found = await replica.settled(5)
    assert found.pop("beside").state == SENT
    assert {d.state for d in found.values()} == {UNKNOWN}
    assert sorted(calls) == sorted(found), "each once"


@pytest.mark.parametrize("mode", ["raises", "too few", "garbage", "nothing"])
async def test_where_it_may_be_repeated_it_is_up_to_the_budget(activation, make, calls, mode) -> None:
    replica = await activation(attempts_budget=3)
    await replica.put(odd("often", mode))
    await replica.activate(make.mail("e", connection="odd", template=""))
    delivery = (await replica.settled(1))["e"]
    assert (delivery.state, delivery.attempts) == (FAILED, 3)
    assert calls == ["e"] * 3
    assert "example.com" not in delivery.detail


@pytest.mark.parametrize("mode", ["prepare", "open"])
async def test_what_certainly_did_not_leave_fails_at_last(activation, make, calls, mode) -> None:
    replica = await activation(attempts_budget=3)
    await replica.put(odd("once", mode))
    await replica.activate(make.mail("e", connection="odd", template=""))
    delivery = (await replica.settled(1))["e"]
    assert delivery.state == FAILED
    assert "example.com" not in delivery.detail
    assert calls == []


async def test_a_full_batch_does_not_wait_and_one_that_is_not_full_does(activation, make, calls) -> None:
    replica = await activation()
    await replica.put(odd("once", "patient"), make.log_connection())
    # Only its lane refuses this one: then the bucket is taken care of, and each arrival is counted.
    await replica.put(pb.Connection(name="strict", log=pb.LogConnection(), requires_consent=True))
    await replica.activate(make.mail("warm", "ada", connection="strict", template=""))
    await replica.settled(1)

    def some(start: int, end: int) -> list[pb.Activation]:
        return [make.mail(f"e-{n:02}", "ada", connection="odd", template="") for n in range(start, end)]

    await replica.activate(*some(0, 13))
    await replica.settled(11)
    await replica.activate(*some(13, 16))
    await replica.activate(*some(16, 19), make.log("beside"))
    await replica.settled(12)
    assert len(calls) == 10, "nine wait for a tenth"
    await replica.activate(*some(19, 20))
    await replica.settled(22)
    assert calls == [f"e-{n:02}" for n in range(20)]


async def test_a_member_that_is_not_told_of_loses_no_result(activation, make, calls, rows) -> None:
    replica = await activation()
    await replica.put(odd("audience", ""))
    await replica.activate(make.mail("e", connection="odd", template="", action=1))
    assert (await replica.settled(1))["e"].state == SENT
    assert calls == ["e"]
    assert await rows("SELECT 1 FROM members") == []


@pytest.mark.parametrize(
    ("mode", "state"), [("held", pb.DELIVERY_STATE_PENDING), ("refused", pb.DELIVERY_STATE_REFUSED)]
)
async def test_what_it_will_not_send_is_told_of_a_test_and_of_a_delivery(
    activation, make, calls, eventually, mode, state
) -> None:
    replica = await activation()
    await replica.put(odd("once", mode))
    request = pb.SendTestRequest(connection="connections/odd")
    tested = await replica.stub.SendTest(request, timeout=30)
    assert (tested.state, tested.detail) == (state, "not now")
    await replica.activate(make.mail("e", connection="odd", template=""))

    async def told() -> bool:
        delivery = (await replica.deliveries())["e"]
        return (delivery.state, delivery.detail) == (state, "not now")

    await eventually(told)
