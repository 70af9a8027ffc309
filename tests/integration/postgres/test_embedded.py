"""The embedded server's life: start, stop, crash, the death of its starter, and folders it can't reach."""

import asyncio
import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from cairn.postgres import embedded
from cairn.postgres.embedded import EmbeddedPostgres, StopMode
from cairn.postgres.pool import connect
from cairn.runtime.errors import StartupError

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

STARTER = """
import sys, time
from pathlib import Path
from cairn.postgres.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
server.start()
print(server.data, flush=True)
time.sleep(600)
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server on a folder of its own, not started."""
    server = EmbeddedPostgres(tmp_path / "pg")
    yield server
    server.remove()


def start_in_a_process(*arguments: str) -> tuple["subprocess.Popen[str]", Path]:
    starter = subprocess.Popen([sys.executable, "-c", STARTER, *arguments], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    with starter.stdout:
        return starter, Path(starter.stdout.readline().strip())


def server_pid(data: Path) -> int:
    return int((data / "cluster" / "postmaster.pid").read_text().splitlines()[0])


def is_alive(pid: int) -> bool:
    """False also for one that ended and whose new parent has not looked yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


async def count_active(server: EmbeddedPostgres) -> int:
    connection = await connect(server.dsn)
    query = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%generate_series(%' AND pid <> pg_backend_pid()"
    found = await connection.fetchval(query)
    await connection.close()
    return int(found)


async def write(server: EmbeddedPostgres, number: int) -> list[int]:
    """Add a row and read all."""
    connection = await connect(server.dsn)
    await connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
    await connection.execute("INSERT INTO kept VALUES ($1)", number)
    rows = await connection.fetch("SELECT n FROM kept ORDER BY n")
    await connection.close()
    return [row["n"] for row in rows]


@pytest.mark.parametrize("mode", ["fast", "immediate", "smart"])
async def test_what_was_committed_is_there_after_every_kind_of_stop(
    own: EmbeddedPostgres, mode: StopMode
) -> None:
    own.start()
    port = own.port
    assert await write(own, 1) == [1]
    own.stop(mode)
    assert not own.running
    own.start()
    assert own.port == port
    assert await write(own, 2) == [1, 2]


async def test_a_named_folder_serves_the_next_program(own: EmbeddedPostgres, tmp_path: Path) -> None:
    own.start()
    await write(own, 1)
    own.stop()
    with EmbeddedPostgres(tmp_path / "pg") as next_one:
        assert next_one.data == own.data
        assert await write(next_one, 2) == [1, 2]


async def test_it_keeps_what_is_durable_and_the_password_to_itself(server: EmbeddedPostgres) -> None:
    connection = await connect(server.dsn)
    settings = {
        name: await connection.fetchval("SELECT current_setting($1)", name)
        for name in ("fsync", "synchronous_commit", "full_page_writes", "listen_addresses", "server_encoding")
    }
    await connection.close()
    assert settings == {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "listen_addresses": "127.0.0.1",
        "server_encoding": "UTF8",
    }
    for name in ("password", "postgres.log"):
        assert stat.S_IMODE((server.data / name).stat().st_mode) == 0o600
    with pytest.raises(StartupError, match="refuses the user or the password"):
        await connect(f"postgresql://cairn:guess@127.0.0.1:{server.port}/cairn")


async def test_the_server_goes_with_a_killed_starter_and_the_next_finds_all(
    own: EmbeddedPostgres, tmp_path: Path
) -> None:
    starter, data = start_in_a_process(str(tmp_path / "pg"))
    killed = server_pid(data)
    starter.kill()
    starter.wait()
    own.start()
    assert own.data == data
    assert not is_alive(killed)
    assert await write(own, 1) == [1]


async def test_everything_killed_at_once_starts_again(
    own: EmbeddedPostgres, tmp_path: Path, server: EmbeddedPostgres
) -> None:
    starter, data = start_in_a_process(str(tmp_path / "pg"))
    os.kill(server_pid(data), signal.SIGKILL)
    starter.kill()
    starter.wait()
    # What the file names is by now another process of the same user.
    stale = data / "cluster" / "postmaster.pid"
    stale.write_text(f"{server_pid(server.data)}\n" + stale.read_text().partition("\n")[2])
    own.start()
    assert await write(own, 1) == [1]


async def test_a_server_that_was_killed_alone_starts_again(own: EmbeddedPostgres) -> None:
    own.start()
    await write(own, 1)
    os.kill(server_pid(own.data), signal.SIGKILL)
    own.stop()
    own.start()
    assert await write(own, 2) == [1, 2]


async def test_a_server_that_was_killed_alone_starts_again_though_its_last_statement_still_runs() -> None:
    with EmbeddedPostgres() as server:
        connection = await connect(server.dsn)
        running = asyncio.create_task(connection.execute("SELECT count(*) FROM generate_series(1, 6000000)"))
        while not running.done() and (await count_active(server)) == 0:
            pass
        os.kill(server_pid(server.data), signal.SIGKILL)
        server.stop()
        server.start()
        assert await write(server, 1) == [1]
        await asyncio.wait([running])
        connection.terminate()


def test_a_temporary_folder_goes_at_the_end_and_after_a_kill_with_the_next_start() -> None:
    with EmbeddedPostgres() as first:
        used = first.data
        assert used.is_dir()
    assert not used.exists()
    starter, left = start_in_a_process()
    pid = server_pid(left)
    starter.kill()
    starter.wait()
    # It ends by itself as well, and may have.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGQUIT)
    with EmbeddedPostgres() as stopped:
        kept = stopped.data
        stopped.stop()
        while is_alive(pid):
            time.sleep(0.02)
        with EmbeddedPostgres():
            assert not left.exists()
            assert kept.exists(), "a stopped server of a living starter is not abandoned"


def test_a_second_server_on_the_same_folder_is_refused(
    own: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.start()
    monkeypatch.setattr(embedded, "_LOCK_SECONDS", 0.1)
    second = EmbeddedPostgres(tmp_path / "pg")
    with pytest.raises(StartupError, match=f"Another embedded Postgres already runs on {own.data}"):
        second.start()
    assert own.running


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = EmbeddedPostgres(tmp_path / "pg", port=port)
        with pytest.raises(StartupError, match=f"Port {port} on 127.0.0.1 is in use"):
            server.start()
    server.start()
    assert server.port == port
    server.remove()


def test_a_free_port_that_was_taken_meanwhile_is_given_up(
    own: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = embedded.free_port
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], free()])
        monkeypatch.setattr(embedded, "free_port", lambda: next(ports))
        own.start()
    assert own.running


def test_a_failed_start_says_what_postgres_said(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "pg", settings={"shared_buffers": "a lot"})
    with pytest.raises(
        StartupError, match=r'did not start.*invalid value for parameter "shared_buffers"'
    ) as caught:
        server.start()
    assert "\n" not in str(caught.value)
    server.remove()


def test_a_half_made_cluster_is_made_anew(own: EmbeddedPostgres) -> None:
    own.start()
    own.stop()
    (own.data / "cluster").rename(own.data / "cluster.new")
    own.start()
    assert own.running


def test_only_the_main_thread_may_start_it(own: EmbeddedPostgres) -> None:
    caught: list[BaseException] = []

    def start() -> None:
        try:
            own.start()
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to run the server as somebody else")
async def test_a_folder_closed_to_others_is_replaced_for_root_and_left_as_it_is(tmp_path: Path) -> None:
    closed = tmp_path / "home"
    closed.mkdir(mode=0o700)
    server = EmbeddedPostgres(closed / "pg")
    server.start()
    try:
        assert not server.data.is_relative_to(closed)
        assert (server.data / "moved-from").read_text().strip() == str(closed / "pg")
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert (server.data / "cluster").stat().st_uid != 0
        await write(server, 1)
        server.stop()
        again = EmbeddedPostgres(closed / "pg")
        again.start()
        assert again.data == server.data
        assert await write(again, 2) == [1, 2]
        again.stop()
    finally:
        server.remove()
