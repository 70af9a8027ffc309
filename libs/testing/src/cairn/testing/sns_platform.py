"""Owns a stand-in for Amazon SNS: a key and a certificate of its own, which it serves, and messages that it signs and delivers.

GET  /certificate.pem     the certificate          GET /moved.pem   a redirect to it
GET  /huge.pem            far too many bytes       GET /page.pem    a proxy's page
GET  /confirm             a subscription's answer, counted
POST /_sign               {"version": "1" | "2", ...fields}: the message, signed
GET  /_state              what was asked for, counted
"""

import argparse
import base64
from collections import Counter
from datetime import timedelta

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from cairn.runtime.clock import now_us, to_datetime
from cairn.testing.standin import run_standin

_HOST = "127.0.0.1"
_SIGNED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": (
        "Message",
        "MessageId",
        "SubscribeURL",
        "Timestamp",
        "Token",
        "TopicArn",
        "Type",
    ),
}


class SnsPlatform:
    """The platform, with one key for its life."""

    def __init__(self, port: int, days: int) -> None:
        self._port = port
        self._key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
        self._certificate = _certify(self._key, days)
        self._counts: Counter[str] = Counter()
        self._runner: web.AppRunner | None = None

    async def start(self) -> int:
        """Listens on loopback; returns the port."""
        app = web.Application()
        app.router.add_get("/certificate.pem", self._serve_certificate)
        app.router.add_get("/moved.pem", self._moved)
        app.router.add_get("/huge.pem", self._huge)
        app.router.add_get("/page.pem", self._page)
        app.router.add_get("/confirm", self._confirm)
        app.router.add_post("/_sign", self._sign)
        app.router.add_get("/_state", self._state)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, _HOST, self._port).start()
        self._port = self._runner.addresses[0][1]
        return self._port

    async def stop(self) -> None:
        """Ends."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve_certificate(self, _request: web.Request) -> web.Response:
        self._counts["certificates"] += 1
        return web.Response(body=self._certificate)

    async def _moved(self, _request: web.Request) -> web.Response:
        raise web.HTTPFound("/certificate.pem")

    async def _huge(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._certificate + b"#" * 1_000_000)

    async def _page(self, _request: web.Request) -> web.Response:
        return web.Response(text="<html>a proxy's page</html>", content_type="text/html")

    async def _confirm(self, request: web.Request) -> web.Response:
        self._counts[f"confirmed {request.query.get('Token', '')}"] += 1
        return web.Response(text="<ConfirmSubscriptionResponse/>", content_type="text/xml")

    async def _sign(self, request: web.Request) -> web.Response:
        fields = await request.json()
        version = str(fields.pop("version", "2"))
        message = {
            "Type": "Notification",
            "SigningCertURL": f"http://{_HOST}:{self._port}/certificate.pem",
            "SignatureVersion": version,
            **fields,
        }
        text = "".join(f"{name}\n{message[name]}\n" for name in _SIGNED[message["Type"]] if name in message)
        algorithm = hashes.SHA1() if version == "1" else hashes.SHA256()
        signature = self._key.sign(text.encode(), padding.PKCS1v15(), algorithm)
        message["Signature"] = base64.b64encode(signature).decode()
        return web.json_response(message)

    async def _state(self, _request: web.Request) -> web.Response:
        return web.json_response({"counts": dict(self._counts)})


def _certify(key: rsa.RSAPrivateKey, days: int) -> bytes:
    """A certificate of its own key that began nine days ago and holds so many days from now; fewer than none: no more."""
    now = to_datetime(now_us())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=9))
        .not_valid_after(now + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m cairn.testing.sns_platform", description=__doc__)
    parser.add_argument(
        "--port", type=int, default=0, help="port on loopback; 0 takes a free one (the default)"
    )
    parser.add_argument("--days", type=int, default=30, help="days that its certificate holds from now")
    arguments = parser.parse_args()
    platform: SnsPlatform | None = None

    async def start() -> int:
        nonlocal platform
        platform = SnsPlatform(arguments.port, arguments.days)
        return await platform.start()

    async def stop() -> None:
        assert platform is not None
        await platform.stop()

    run_standin(start, stop)


if __name__ == "__main__":
    main()
