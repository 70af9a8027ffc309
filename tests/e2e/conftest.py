"""What some tests of the whole share: a mail server, and a Cairn of real processes."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from command import read_port
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
    with process:
        yield MailBox(folder, read_port(process))
        process.terminate()


@pytest.fixture
def suite(tmp_path: Path) -> Iterator[Suite]:
    with Suite(log_dir=tmp_path / "logs") as running:
        yield running


@pytest.fixture
async def cairn(suite: Suite) -> AsyncIterator[Cairn]:
    house = Cairn(suite)
    yield house
    await house.close()
