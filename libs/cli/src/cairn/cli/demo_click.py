"""Owns the demo's click on a mail program's "unsubscribe": what such a program does with a mail, by RFC 8058."""

import asyncio
from pathlib import Path

import aiohttp

from cairn.cli.demo_judge import Mail, read_mailbox

_POLL_SECONDS = 0.02


async def first_mail(mailbox: Path, recipient: str) -> Mail:
    """The first mail to an address; waits until there is one."""
    while True:
        for mail in read_mailbox(mailbox):
            if mail.recipient == recipient:
                return mail
        await asyncio.sleep(_POLL_SECONDS)


async def unsubscribe(mail: Mail) -> int:
    """Post what a mail program posts when its user wants no more of these; the status of the answer, 0 without an address."""
    if not mail.unsubscribe_url:
        return 0
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
        session.post(mail.unsubscribe_url, data={"List-Unsubscribe": "One-Click"}) as answer,
    ):
        return answer.status
