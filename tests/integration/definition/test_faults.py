"""What an operator sees: Postgres away and back, a real process, its exit codes and its one-line errors."""

import asyncio
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import grpc
import pytest

from cairn.api.definition.v1.definition_pb2 import WatchJourneysRequest
from cairn.api.definition.v1.definition_pb2_grpc import DefinitionServiceStub
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.postgres.embedded import EmbeddedPostgres
from cairn.runtime.errors import error_from_rpc

Run = Callable[..., Awaitable[Process]]


@pytest.fixture
async def run() -> AsyncIterator[Run]:
    """Starts `python -m cairn.definition`; whatever still runs at the end is killed."""
    processes: list[Process] = []

    async def start(*arguments: str, **settings: str) -> Process:
        environment = {f"CAIRN_DEFINITION_{name.upper()}": value for name, value in settings.items()}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "cairn.definition", *arguments),
            env={**os.environ, "CAIRN_DEFINITION_LOG_FORMAT": "JSON", **environment},
            stdout=PIPE,
            stderr=PIPE,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def serving_port(process: Process) -> int:
    async with asyncio.timeout(30):
        async for line in process.stderr:
            fact = json.loads(line)
            if fact["event"] == "serving":
                return fact["grpc_port"]
    raise AssertionError("the process ended before it served")


async def rest_of(call: grpc.aio.UnaryStreamCall) -> None:
    async with asyncio.timeout(30):
        while await call.read() is not grpc.aio.EOF:
            pass


async def outcome(process: Process) -> tuple[int, str, str]:
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_without_postgres_calls_are_unavailable_and_recover_with_it(
    mode: str, migrated_database, run_service, destinations, until
) -> None:
    with EmbeddedPostgres() as server:
        dsn = await migrated_database(server)
        async with (
            run_service(dsn, destinations.address) as replica,
            run_service(dsn, destinations.address, heartbeat_seconds=60) as silent,
        ):
            patient = silent.watch()
            assert (await patient.read()).caught_up
            await replica.create(replica.welcome())
            await replica.publish("welcome")
            call = replica.watch()
            assert (await call.read()).revision == 1

            server.stop(mode)
            for attempt in (replica.get("welcome"), replica.publish("welcome"), replica.changes()):
                error = await replica.refusal(attempt)
                assert error.reason == ErrorReason.ERROR_REASON_POSTGRES_UNAVAILABLE
            ended = await replica.ending(call)
            assert ended.reason == ErrorReason.ERROR_REASON_POSTGRES_UNAVAILABLE

            server.start()

            async def answers() -> bool:
                try:
                    return (await replica.get("welcome")).latest_version == 1
                except grpc.aio.AioRpcError as failure:
                    if failure.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    return False

            await until(answers)
            # A watch that had nothing to read meanwhile goes on, and hears of the other replica's news again.
            await replica.update(replica.welcome(wait_s=60))
            assert (await replica.publish("welcome")).revision == 2
            async with asyncio.timeout(20):
                while (await patient.read()).revision < 2:
                    pass


@pytest.fixture
async def empty_dsn(definition_postgres: EmbeddedPostgres) -> str:
    admin = await asyncpg.connect(definition_postgres.dsn)
    await admin.execute("DROP DATABASE IF EXISTS definition_process WITH (FORCE)")
    await admin.execute("CREATE DATABASE definition_process")
    await admin.close()
    return re.sub("/[^/]*$", "/definition_process", definition_postgres.dsn)


async def test_a_process_refuses_to_serve_a_database_that_was_not_migrated(run, empty_dsn) -> None:
    code, out, err = await outcome(await run(postgres_dsn=empty_dsn, grpc_port="0", http_port="0"))
    assert (code, out) == (1, "")
    (line,) = [line for line in err.splitlines() if not line.startswith("{")]
    assert line.startswith("cairn definition: ")
    assert "run `cairn migrate`" in line


async def test_a_process_migrates_serves_and_ends_its_streams_when_asked_to_stop(run, empty_dsn) -> None:
    for done in ("0001_journeys.sql, 0002_lives_and_segments.sql", "nothing was missing"):
        code, out, _ = await outcome(await run("migrate", postgres_dsn=empty_dsn))
        assert (code, out) == (0, f"The schema 'definition' is at version 2: {done}.\n")

    process = await run(
        postgres_dsn=empty_dsn,
        postgres_role="cairn_definition",
        grpc_port="0",
        http_port="0",
        drain_seconds="60",
    )
    port = await serving_port(process)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = DefinitionServiceStub(channel).WatchJourneys(WatchJourneysRequest())
        assert (await call.read()).caught_up
        process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rest_of(call)
    assert error_from_rpc(caught.value).reason == ErrorReason.ERROR_REASON_NOT_READY
    code, _, _ = await outcome(process)
    assert code == 0


async def test_a_wrong_setting_is_one_line_that_names_it(run) -> None:
    code, _, err = await outcome(await run(postgres_dsn="postgresql://u:secret@127.0.0.1:1/x"))
    assert code == 1
    assert "CAIRN_DEFINITION_POSTGRES_DSN" in err
    assert "secret" not in err
    assert "Traceback" not in err
