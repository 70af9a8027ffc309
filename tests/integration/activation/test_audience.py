"""Adds and removes reach the platform in order, whatever it answers."""

import hashlib

import pytest

from cairn.api.activation.v1 import activation_pb2 as pb


@pytest.fixture
async def service(activation, make, meta_platform, patience):
    replica = await activation(http_timeout_seconds=patience)
    await replica.put(make.meta_connection(meta_platform.port))
    return replica


def _member(profile: str) -> list[str]:
    return [hashlib.sha256(f"{profile}@example.com".encode()).hexdigest()]


async def test_add_and_remove(service, make, meta_platform) -> None:
    await service.activate(
        make.audience("1", "ada"),
        make.audience("2", "bob"),
        make.audience("3", "ada", "REMOVE"),
        make.audience("4", "cy", "REMOVE"),
        make.audience("5", "dee", "REMOVE"),
        make.audience("6", "dee"),
    )
    found = await service.settled(6)
    assert {d.state for d in found.values()} == {pb.DELIVERY_STATE_SENT}
    state = await meta_platform.state()
    assert state["members"]["123"] == sorted([_member("bob"), _member("dee")])
    assert "refused" not in state["counts"]


@pytest.mark.parametrize("mode", ["500", "429", "hang", "reset", "html", "huge"])
async def test_whatever_it_does_it_is_asked_again_in_order(service, make, meta_platform, mode) -> None:
    await meta_platform.misbehave(mode, 2)
    await service.activate(make.audience("1", "ada"), make.audience("2", "ada", "REMOVE"))
    await service.activate(make.audience("3", "ada"))
    found = await service.settled(3)
    assert {d.state for d in found.values()} == {pb.DELIVERY_STATE_SENT}
    assert found["1"].attempts == 3
    assert (await meta_platform.state())["members"]["123"] == [_member("ada")]


async def test_many_go_in_few_calls(service, make, meta_platform) -> None:
    await service.activate(*(make.audience(f"a{n}", f"p{n}") for n in range(3000)))
    await service.settled(3000)
    state = await meta_platform.state()
    assert len(state["members"]["123"]) == 3000
    assert state["counts"]["calls"] <= 16


async def test_a_refused_token_waits_for_a_new_one_and_tells_no_secret(
    service, make, meta_platform, monkeypatch, eventually
) -> None:
    monkeypatch.setenv("CAIRN_SECRET_META_TOKEN", "stale-token")
    await service.activate(make.audience("1", "ada"))

    async def told() -> str:
        return (await service.deliveries())["1"].detail

    detail = await eventually(told)
    assert "renew its secret" in detail
    assert "stale-token" not in detail
    monkeypatch.setenv("CAIRN_SECRET_META_TOKEN", "a-token")
    assert (await service.settled(1))["1"].state == pb.DELIVERY_STATE_SENT


async def test_a_refused_parameter_is_final(service, make, meta_platform, monkeypatch) -> None:
    monkeypatch.setenv("CAIRN_SECRET_META_APP", "another-secret")
    await service.activate(make.audience("1", "ada"))
    delivery = (await service.settled(1))["1"]
    assert (delivery.state, delivery.attempts) == (pb.DELIVERY_STATE_FAILED, 1)
    assert delivery.detail == "the ad platform answered HTTP 400, error 100/0"


async def test_a_profile_without_identifier_fails_alone(service, make, meta_platform) -> None:
    context = {"profile": {"email": " "}}
    await service.activate(make.audience("1", "ada", context=context), make.audience("2", "bob"))
    found = await service.settled(2)
    assert found["1"].state == pb.DELIVERY_STATE_FAILED
    assert (
        found["1"].detail
        == "the profile has no identifier that the audience could match (attributes `email`)"
    )
    assert (await meta_platform.state())["members"]["123"] == [_member("bob")]
