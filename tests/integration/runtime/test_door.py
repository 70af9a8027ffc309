"""Who gets in: tokens and roles, TLS, mutual TLS, and what may be open."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import Authority
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pydantic import SecretStr
from runtime_echo import ROLES, Echo, EchoSettings, Stub, binding
from runtime_parts import DSN, Running, StartEcho

from cairn.runtime.auth import Role, token_digest
from cairn.runtime.client import open_channel
from cairn.runtime.drain import Drain
from cairn.runtime.errors import StartupError
from cairn.runtime.server import GrpcServer
from cairn.runtime.settings import ClientSettings

OK = grpc.StatusCode.OK
DENIED = grpc.StatusCode.PERMISSION_DENIED
UNKNOWN_CALLER = grpc.StatusCode.UNAUTHENTICATED

MATRIX = {
    # method's role: what READ, PRODUCE and OPERATE get
    Role.READ: {Role.READ: OK, Role.PRODUCE: DENIED, Role.OPERATE: OK},
    Role.PRODUCE: {Role.READ: DENIED, Role.PRODUCE: OK, Role.OPERATE: OK},
    Role.OPERATE: {Role.READ: DENIED, Role.PRODUCE: DENIED, Role.OPERATE: OK},
}


async def words(*texts: str) -> AsyncIterator[StringValue]:
    for text in texts:
        yield StringValue(value=text)


async def outcome(call: Any) -> grpc.StatusCode:
    try:
        if hasattr(call, "read"):
            await call.read()
            call.cancel()
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return OK


async def ask(stub: Stub, method: str) -> grpc.StatusCode:
    calls: dict[str, Callable[[], Any]] = {
        "Say": lambda: stub.Say(StringValue(value="hello")),
        "Count": lambda: stub.Count(StringValue(value="1")),
        # Without a message: one that is being written as the refusal comes makes the client lose the code.
        "Join": lambda: stub.Join(words()),
        "Chat": lambda: stub.Chat(words()),
    }
    return await outcome(calls[method]())


def write_tokens(folder: Path, **tokens: Role) -> Path:
    file = folder / "tokens.yaml"
    lines = [
        f'- {{name: {token}-caller, role: {role.value}, sha256: "{token_digest(token).hex()}"}}\n'
        for token, role in tokens.items()
    ]
    file.write_text("".join(lines))
    return file


def token_file(folder: Path, token: str) -> Path:
    file = folder / f"{token}.token"
    file.write_text(token + "\n")
    return file


@pytest.fixture
async def guarded(start_echo: StartEcho, tmp_path: Path) -> Running:
    tokens = write_tokens(tmp_path, reader=Role.READ, producer=Role.PRODUCE, operator=Role.OPERATE)
    return await start_echo(tokens_file=tokens)


@pytest.mark.parametrize("method", list(ROLES))
@pytest.mark.parametrize("token", ["reader", "producer", "operator", "stranger", ""])
async def test_each_role_may_call_what_its_role_says(
    guarded: Running, tmp_path: Path, method: str, token: str
) -> None:
    roles = {"reader": Role.READ, "producer": Role.PRODUCE, "operator": Role.OPERATE}
    stub = guarded.stub(peer_token_file=token_file(tmp_path, token)) if token else guarded.stub()
    expected = MATRIX[ROLES[method]][roles[token]] if token in roles else UNKNOWN_CALLER
    assert await ask(stub, method) is expected


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic operator", "operator"])
async def test_what_is_no_bearer_token_is_no_token(guarded: Running, header: str) -> None:
    call = guarded.stub().Say(StringValue(value="x"), metadata=[("authorization", header)])
    assert await outcome(call) is UNKNOWN_CALLER


async def test_health_asks_for_no_token_and_reflection_for_any(guarded: Running, tmp_path: Path) -> None:
    async with grpc.aio.insecure_channel(guarded.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert await outcome(health.Check(health_pb2.HealthCheckRequest())) is OK
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        question = [reflection_pb2.ServerReflectionRequest(list_services="")]
        assert await outcome(reflection.ServerReflectionInfo(iter(question))) is UNKNOWN_CALLER
    settings = ClientSettings(peer_token_file=token_file(tmp_path, "producer"))
    async with open_channel(guarded.address, settings) as channel:
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        assert await outcome(reflection.ServerReflectionInfo(iter(question))) is OK


async def test_tokens_are_read_again_when_they_change_and_bad_ones_change_nothing(
    guarded: Running, tmp_path: Path
) -> None:
    stub = guarded.stub(peer_token_file=token_file(tmp_path, "fresh"))
    assert await ask(stub, "Say") is UNKNOWN_CALLER
    write_tokens(tmp_path, fresh=Role.READ)
    async with asyncio.timeout(20):
        while await ask(stub, "Say") is not OK:  # noqa: ASYNC110 - a file has no event to wait for
            await asyncio.sleep(0.05)
    (tmp_path / "tokens.yaml").write_text("[")
    async with asyncio.timeout(20):
        for _ in range(30):
            await asyncio.sleep(0.05)
            assert await ask(stub, "Say") is OK


async def test_tls_is_spoken_and_its_authority_checked(
    start_echo: StartEcho, authority: Authority, stranger: Authority
) -> None:
    pair = authority.issue("echo")
    running = await start_echo(tls_certificate_file=pair.certificate, tls_key_file=pair.key)
    assert await ask(running.stub(peer_ca_file=authority.file), "Say") is OK
    assert await ask(running.stub(peer_ca_file=stranger.file), "Say") is grpc.StatusCode.UNAVAILABLE
    assert await ask(running.stub(), "Say") is grpc.StatusCode.UNAVAILABLE


async def test_mutual_tls_asks_callers_for_a_certificate_of_the_authority(
    start_echo: StartEcho, authority: Authority, stranger: Authority
) -> None:
    pair, caller, intruder = authority.issue("echo"), authority.issue("caller"), stranger.issue("intruder")
    running = await start_echo(
        tls_certificate_file=pair.certificate, tls_key_file=pair.key, tls_client_ca_file=authority.file
    )

    async def with_certificate(certificate: Path, key: Path) -> grpc.StatusCode:
        settings = {"tls_certificate_file": certificate, "tls_key_file": key}
        return await ask(running.stub(peer_ca_file=authority.file, **settings), "Say")

    assert await with_certificate(caller.certificate, caller.key) is OK
    assert await with_certificate(intruder.certificate, intruder.key) is grpc.StatusCode.UNAVAILABLE
    assert await ask(running.stub(peer_ca_file=authority.file), "Say") is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"grpc_host": "0.0.0.0"}, "nothing says who may call: set CAIRN_ECHO_TOKENS_FILE"),
        ({"grpc_host": "0.0.0.0", "tokens_file": True}, "set CAIRN_ECHO_TLS_CERTIFICATE_FILE"),
        ({"grpc_host": "0.0.0.0", "allow_plaintext": True}, "set CAIRN_ECHO_TOKENS_FILE"),
        ({"grpc_host": "0.0.0.0", "tokens_file": True, "allow_plaintext": True}, ""),
        ({"grpc_host": "127.0.0.1"}, ""),
        ({"grpc_host": "localhost"}, ""),
        ({"grpc_host": "::1"}, ""),
        ({"tls_certificate_file": "c.pem"}, "belong together"),
        ({"tls_client_ca_file": "c.pem"}, "which needs TLS"),
        (
            {"tokens_file": "/nowhere/tokens.yaml"},
            "CAIRN_ECHO_TOKENS_FILE: /nowhere/tokens.yaml can't be read",
        ),
    ],
)
async def test_the_door_is_open_on_loopback_only(
    tmp_path: Path, settings: dict[str, Any], complaint: str
) -> None:
    if settings.get("tokens_file") is True:
        settings = {**settings, "tokens_file": write_tokens(tmp_path, operator=Role.OPERATE)}
    chosen = EchoSettings(**{"postgres_dsn": DSN, **settings})
    if not complaint:
        GrpcServer(chosen, [binding(Echo())], Drain())
        return
    with pytest.raises(StartupError, match=complaint):
        GrpcServer(chosen, [binding(Echo())], Drain())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"roles": {name: role for name, role in ROLES.items() if name != "Join"}}, "Join has no role"),
        ({"roles": {**ROLES, "Shout": Role.READ}}, "has no method Shout"),
        ({"quiet_methods": frozenset({"Shout"})}, "has no method Shout"),
    ],
)
async def test_every_method_has_a_role_and_every_role_a_method(
    changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(StartupError, match=complaint):
        GrpcServer(EchoSettings(postgres_dsn=SecretStr(DSN)), [binding(Echo(), **changes)], Drain())


@pytest.mark.parametrize(
    ("address", "settings", "complaint"),
    [
        ("evaluator", {}, "is no address"),
        ("evaluator:http", {}, "is no address"),
        ("evaluator:7402", {"peer_token_file": True}, "in the clear: set CAIRN_PEER_CA_FILE"),
        ("127.0.0.1:1", {"peer_token_file": "/nowhere"}, "CAIRN_PEER_TOKEN_FILE: /nowhere can't be read"),
        ("127.0.0.1:1", {"peer_ca_file": "/nowhere"}, "CAIRN_PEER_CA_FILE: /nowhere can't be read"),
    ],
)
async def test_a_channel_that_can_not_be_right_is_refused(
    tmp_path: Path, address: str, settings: dict[str, Any], complaint: str
) -> None:
    if settings.get("peer_token_file") is True:
        settings = {"peer_token_file": token_file(tmp_path, "operator")}
    with pytest.raises(StartupError, match=complaint):
        open_channel(address, ClientSettings(**settings))
