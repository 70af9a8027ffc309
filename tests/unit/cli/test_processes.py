"""Child processes: real programs, started, stopped, killed, and asked why they ended."""

import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from cairn.cli.processes import Child, free_ports, is_free

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
WILLING = "import time; print('up', flush=True); time.sleep(600)"


def child(tmp_path: Path, program: str) -> Child:
    return Child("it", (sys.executable, "-c", program), {}, tmp_path / "logs" / "it.log")


def wait_until_up(process: Child) -> None:
    deadline = time.monotonic() + 30
    while "up" not in process.output():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_that_was_never_started_is_harmless(tmp_path: Path) -> None:
    process = child(tmp_path, WILLING)
    assert (process.alive, process.exit_code, process.stop(1)) == (False, None, None)
    assert process.output() == ""


@pytest.mark.parametrize(
    ("program", "signal_number"), [(WILLING, signal.SIGTERM), (STUBBORN, signal.SIGKILL)]
)
def test_stop_asks_first_and_kills_then(tmp_path: Path, program: str, signal_number: signal.Signals) -> None:
    process = child(tmp_path, program)
    process.start()
    wait_until_up(process)
    assert process.stop(timeout_s=0.2 if program is STUBBORN else 30) == -signal_number
    assert not process.alive
    assert process.exit_code is None


def test_it_can_be_started_again_and_knows_its_present_run(tmp_path: Path) -> None:
    process = child(tmp_path, WILLING)
    for _ in range(2):
        process.start()
        wait_until_up(process)
        assert process.output() == "up\n"
        process.kill()
    assert process.log.read_text() == "up\nup\n"


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (
            "print('{\"json\": 1}'); import sys; sys.exit('cairn it: port in use')",
            "exit code 1: cairn it: port in use",
        ),
        ("print('{\"json\": 1}')", 'exit code 0: {"json": 1}'),
        ("pass", "exit code 0: it said nothing"),
        ("import os; os.kill(os.getpid(), 9)", "signal SIGKILL"),
    ],
)
def test_it_says_why_it_ended(tmp_path: Path, program: str, says: str) -> None:
    process = child(tmp_path, program)
    process.start()
    deadline = time.monotonic() + 30
    while process.alive:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.obituary() == f"{says} (log: {process.log})"


def test_free_ports_are_different_free_and_not_promised_to_others() -> None:
    first = free_ports(4)
    assert len(set(first)) == 4
    assert not set(free_ports(4, without=first)) & set(first)
    with socket.socket() as taken:
        # As whoever asked for it would: what a former listener left behind is no obstacle.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", first[0]))
        taken.listen()
        assert not is_free(first[0])
        assert first[0] not in free_ports(4)
