"""The main job in one command, as a person would run it: `cairn demo`."""

import subprocess
import sys
from pathlib import Path


def test_the_demo_finds_every_expected_message_and_nothing_else(tmp_path: Path) -> None:
    mailbox = tmp_path / "mails"
    done = subprocess.run(
        [sys.executable, "-m", "cairn.cli.main", "demo", "--mailbox", str(mailbox)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every expected message arrived exactly once, and nothing else did." in done.stdout
    assert "Map of the ridge trail" in done.stdout, "the reminder lists the cart's products"
    assert "timer due, until acted on" in done.stdout
    assert "divides waits" in done.stdout, "the speed is said at the start"
    assert len(list(mailbox.glob("*.eml"))) == 4
    assert "Traceback" not in done.stderr
