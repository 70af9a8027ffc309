"""A channel of another package through the running service, and what becomes of its deliveries once the package is gone."""

import sys

import pytest
from pigeon_post_package import install

from cairn.activation.channels import plugin
from cairn.api.activation.v1 import activation_pb2 as pb


@pytest.fixture
def package(tmp_path, monkeypatch):
    install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    plugin.cache_clear()
    sys.modules.pop("pigeon_post", None)


def pigeons() -> pb.Connection:
    made = pb.Connection(name="connections/pigeons", plugin=pb.PluginConnection(channel="pigeon-post"))
    made.plugin.settings.update({"loft": "north"})
    return made


async def test_it_delivers(activation, make, package) -> None:
    replica = await activation()
    await replica.put(pigeons())
    await replica.activate(*(make.mail(f"e-{n}", connection="pigeons", template="") for n in range(7)))
    found = await replica.settled(7)
    assert {(d.state, d.detail) for d in found.values()} == {(pb.DELIVERY_STATE_SENT, "flew")}


async def test_a_package_that_is_gone_harms_no_other(activation, make, package, monkeypatch) -> None:
    replica = await activation(attempts_budget=2)
    await replica.put(pigeons(), make.log_connection())
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(package)])
    plugin.cache_clear()
    answer = await replica.activate(make.mail("e-1", connection="pigeons", template=""), make.log("e-2"))
    assert answer.accepted == 2
    found = await replica.settled(2)
    assert found["e-2"].state == pb.DELIVERY_STATE_SENT
    assert found["e-1"].state == pb.DELIVERY_STATE_FAILED
    assert (
        found["e-1"].detail
        == "given up after 2 attempts: no installed package brings the channel `pigeon-post`"
    )
