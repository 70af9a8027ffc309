"""Owns the two things that are fetched from Amazon SNS: the certificates that it signs with, and the answer to a subscription.

Refuses every address that is not Amazon's own, redirects, and more than a certificate's worth of bytes.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Collection

import aiohttp
from cryptography import x509

from cairn.activation.feedback import RefusedError
from cairn.activation.feedback_ses import MAX_CERTIFICATE_BYTES, check_url, read_certificate

_FETCH_SECONDS = 5.0
_KEPT_SECONDS = 3600.0
_MOST_KEPT = 16
_FETCHES_AT_ONCE = 4


class SnsCertificates:
    """Certificates by their address, each fetched once an hour. `extra_hosts` (`HOST:PORT`) are tests' stand-ins."""

    def __init__(self, extra_hosts: Collection[str]) -> None:
        self._extra_hosts = frozenset(extra_hosts)
        self._kept: OrderedDict[str, tuple[float, x509.Certificate]] = OrderedDict()
        self._turns = asyncio.Semaphore(_FETCHES_AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> None:
        """Before the first fetch, on the event loop."""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_FETCH_SECONDS))

    async def close(self) -> None:
        """Lets go of its connections."""
        if self._session is not None:
            await self._session.close()

    async def get(self, url: str) -> x509.Certificate:
        """The certificate at an address; RefusedError when there is none, or when the address is not Amazon's."""
        check_url(url, self._extra_hosts, ".pem")
        until, certificate = self._kept.get(url, (0.0, None))
        if certificate is not None and time.monotonic() < until:
            return certificate
        certificate = read_certificate(await self._fetch(url))
        self._kept[url] = (time.monotonic() + _KEPT_SECONDS, certificate)
        self._kept.move_to_end(url)
        while len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return certificate

    async def confirm(self, url: str) -> None:
        """Answers a subscription by opening the address that it asks to open."""
        check_url(url, self._extra_hosts)
        await self._fetch(url)

    async def _fetch(self, url: str) -> bytes:
        assert self._session is not None, "open first"
        try:
            async with self._turns, self._session.get(url, allow_redirects=False) as response:
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > MAX_CERTIFICATE_BYTES:
                        raise RefusedError(403, "the address that it names answers with too much")
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError):
            raise RefusedError(503, "the address that it names does not answer") from None
        if status >= 500:
            raise RefusedError(503, "the address that it names is in trouble")
        if status != 200:
            raise RefusedError(403, f"the address that it names answers with {status}")
        return bytes(body)
