"""Owns a mail server that keeps what it receives: an `.eml` file for each message and a line in `index.jsonl`.

Refuses to confirm a message that is not on disk yet.
"""

import argparse
import asyncio
import json
import os
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

from cairn.runtime.clock import format_time, now_us
from cairn.testing.standin import run_standin

INDEX = "index.jsonl"
_HOST = "127.0.0.1"


class Mailbox:
    """Stores each message; aiosmtpd calls it."""

    def __init__(
        self, folder: Path, *, fail_first: int = 0, slow_s: float = 0.0, index_only: bool = False
    ) -> None:
        self._folder = folder
        self._fail_next = fail_first
        self._slow_s = slow_s
        self._index_only = index_only
        self._index = (folder / INDEX).open("a", encoding="utf-8", buffering=1)
        self._count = len(list(folder.glob("*.eml")))

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Keeps one message, or defers it while it is asked to; returns the server's answer."""
        if self._fail_next > 0:
            self._fail_next -= 1
            return "451 4.3.0 try again later"
        content = envelope.original_content or b""
        self._keep(envelope, content)
        if self._slow_s:
            await asyncio.sleep(self._slow_s)
        return "250 2.0.0 kept"

    def _keep(self, envelope: Envelope, content: bytes) -> None:
        self._count += 1
        name = f"{self._count:06d}.eml"
        if not self._index_only:
            unfinished = self._folder / f".{name}"
            unfinished.write_bytes(content)
            os.replace(unfinished, self._folder / name)
        entry = {
            "time": format_time(now_us()),
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "message_id": _header(content, b"message-id"),
            "activation": _header(content, b"x-cairn-activation"),
            "file": name,
        }
        self._index.write(json.dumps(entry) + "\n")


def read_index(folder: Path) -> list[dict[str, Any]]:
    """What a server has kept so far: an entry for each message. A line that is being written at this moment counts next time."""
    index = folder / INDEX
    if not index.exists():
        return []
    lines = index.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


class MailServer:
    """The server around a mailbox."""

    def __init__(self, mailbox: Mailbox, port: int) -> None:
        self._mailbox = mailbox
        self._port = port
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listens on loopback; returns the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._session, _HOST, self._port)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Takes no more connections."""
        if self._server is not None:
            self._server.close()

    def _session(self) -> SMTP:
        return SMTP(self._mailbox, hostname="mail.invalid", ident="mailbox", data_size_limit=33_554_432)


def _header(content: bytes, name: bytes) -> str:
    head = content.partition(b"\r\n\r\n")[0]
    for line in head.split(b"\r\n"):
        key, colon, value = line.partition(b":")
        if colon and key.lower() == name:
            return value.strip().decode("ascii", "replace")
    return ""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m cairn.testing.mail_server", description=__doc__)
    parser.add_argument(
        "--port", type=int, default=0, help="port on loopback; 0 takes a free one (the default)"
    )
    parser.add_argument("--mailbox", type=Path, required=True, help="folder for the messages; it is made")
    parser.add_argument(
        "--fail-first", type=int, default=0, metavar="N", help="defer the first N messages (451)"
    )
    parser.add_argument(
        "--slow", type=float, default=0.0, metavar="SECONDS", help="wait between a message and its 250"
    )
    parser.add_argument(
        "--index-only", action="store_true", help="keep a line for each message, and not the messages"
    )
    arguments = parser.parse_args()
    arguments.mailbox.mkdir(parents=True, exist_ok=True)
    mailbox = Mailbox(
        arguments.mailbox,
        fail_first=arguments.fail_first,
        slow_s=arguments.slow,
        index_only=arguments.index_only,
    )
    server = MailServer(mailbox, arguments.port)
    run_standin(server.start, server.stop)


if __name__ == "__main__":
    main()
