"""A whole Cairn of real processes for tests that break it: a suite, and a mail server beside it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from house import Cairn, MailBox

from cairn.cli.suite import Suite


@pytest.fixture
def mailbox(tmp_path: Path) -> Iterator[MailBox]:
    folder = tmp_path / "mail"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "cairn.testing.mail_server", "--port", "0", "--mailbox", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "CAIRN_DIE_WITH_PARENT": "1"},
    )
    assert process.stdout is not None
    yield MailBox(folder, json.loads(process.stdout.readline())["port"])
    process.send_signal(signal.SIGTERM)
    process.wait(10)
    process.stdout.close()


@pytest.fixture
def suite(tmp_path: Path) -> Iterator[Suite]:
    """Waits divided by 900: three hours are twelve seconds."""
    with Suite(log_dir=tmp_path / "logs", speed=900) as running:
        yield running


@pytest.fixture
async def cairn(suite: Suite) -> AsyncIterator[Cairn]:
    house = Cairn(suite)
    yield house
    await house.close()
