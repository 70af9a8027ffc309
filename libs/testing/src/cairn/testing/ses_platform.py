"""Owns a stand-in for version 2 of Amazon SES' API, which checks what SES checks and remembers the messages it took.

It verifies the signature of each request (AWS Signature Version 4) with the time and the region in it, the sender's identity, the
configuration set, tags, and that the message is one.
"""

import base64
import binascii
import email
import email.policy
import hashlib
import hmac
import json
import re
import time
from datetime import UTC, datetime
from email.utils import getaddresses, parseaddr
from typing import Any
from urllib.parse import quote

from aiohttp import web

from cairn.testing.http_standin import HttpStandIn, Refused, run

MAX_SKEW_SECONDS = 300
MAX_RECIPIENTS = 50
MAX_MESSAGE_BYTES = 40 * 1024 * 1024
ERRORS = {
    "AccountSuspendedException": 400,
    "BadRequestException": 400,
    "InternalFailure": 500,
    "LimitExceededException": 400,
    "MailFromDomainNotVerifiedException": 400,
    "MessageRejected": 400,
    "NotFoundException": 404,
    "SendingPausedException": 400,
    "ServiceUnavailable": 503,
    "TooManyRequestsException": 429,
}
"""The errors that a mode can name, and their status."""

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/([0-9]{8})/([^/]+)/([^/]+)/aws4_request, SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})"
)
_TAG = re.compile(r"[A-Za-z0-9_-]{1,256}")
_FIELDS = frozenset(
    {
        "FromEmailAddress",
        "Destination",
        "Content",
        "ConfigurationSetName",
        "EmailTags",
        "ReplyToAddresses",
        "FeedbackForwardingEmailAddress",
        "ListManagementOptions",
    }
)


def _refused(name: str, status: int = 400) -> Refused:
    """An error as SES words it. The message may quote an address, as theirs does."""
    header = {"x-amzn-ErrorType": f"{name}:http://internal.amazon.com/coral/com.amazonaws.services.sesv2/"}
    return Refused(status, {"message": f"{name} about somebody@example.com"}, header)


class SesPlatform(HttpStandIn):
    """One account in one region."""

    def __init__(
        self,
        access_key_id: str,
        secret_key: str,
        region: str,
        identity: str,
        configuration_set: str = "",
        clock_offset: float = 0.0,
        port: int = 0,
        mode: str = "",
    ) -> None:
        super().__init__(port, mode)
        self._access_key_id = access_key_id
        self._secret_key = secret_key
        self._region = region
        self._identity = identity
        self._configuration_set = configuration_set
        self._clock_offset = clock_offset
        self._messages: list[dict[str, Any]] = []

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/v2/email/outbound-emails", self.guarded(self._send))
        app.router.add_get("/v2/email/account", self.guarded(self._account))

    def busy(self, status: int) -> Refused:
        return (
            _refused("TooManyRequestsException", 429) if status == 429 else _refused("InternalFailure", 500)
        )

    def error(self, mode: str) -> Refused | None:
        return _refused(mode, ERRORS[mode]) if mode in ERRORS else None

    def state(self) -> dict[str, Any]:
        return {"messages": self._messages}

    def _account(self, request: web.Request, body: bytes) -> web.Response:
        self._verify(request, body)
        return web.json_response(
            {
                "SendingEnabled": True,
                "ProductionAccessEnabled": True,
                "SendQuota": {"Max24HourSend": 50_000.0, "MaxSendRate": 14.0, "SentLast24Hours": 0.0},
                "EnforcementStatus": "HEALTHY",
            }
        )

    def _send(self, request: web.Request, body: bytes) -> web.Response:
        self._verify(request, body)
        if request.content_type != "application/json":
            raise _refused("BadRequestException")
        try:
            asked = json.loads(body)
            data = base64.b64decode(asked["Content"]["Raw"]["Data"], validate=True)
            recipients = asked["Destination"]["ToAddresses"]
        except (ValueError, KeyError, TypeError, binascii.Error):
            raise _refused("BadRequestException") from None
        self._check(asked, recipients, data)
        message = email.message_from_bytes(data, policy=email.policy.default)
        message_id = f"0100-{len(self._messages) + 1:06d}"
        self._messages.append(
            {
                "to": recipients,
                "from": asked["FromEmailAddress"],
                "tags": {tag["Name"]: tag["Value"] for tag in asked.get("EmailTags", [])},
                "configuration_set": asked.get("ConfigurationSetName", ""),
                "headers": {name: str(value) for name, value in message.items()},
                "parts": [part.get_content_type() for part in message.walk() if not part.is_multipart()],
                "message_id": message_id,
            }
        )
        return web.json_response({"MessageId": message_id})

    def _check(self, asked: dict[str, Any], recipients: Any, data: bytes) -> None:
        if not _FIELDS.issuperset(asked) or set(asked["Destination"]) - {
            "ToAddresses",
            "CcAddresses",
            "BccAddresses",
        }:
            raise _refused("BadRequestException")
        if not isinstance(recipients, list) or not 1 <= len(recipients) <= MAX_RECIPIENTS:
            raise _refused("BadRequestException")
        if self._identity not in _identities(asked["FromEmailAddress"]):
            raise Refused(
                400,
                {
                    "message": "Email address is not verified. The following identities failed the check: x@y.z"
                },
                {"x-amzn-ErrorType": "MessageRejected"},
            )
        if asked.get("ConfigurationSetName", self._configuration_set) != self._configuration_set:
            raise _refused("NotFoundException", 404)
        for tag in asked.get("EmailTags", []):
            if not _TAG.fullmatch(tag.get("Name", "")) or not _TAG.fullmatch(tag.get("Value", "")):
                raise _refused("BadRequestException")
        head = data.partition(b"\r\n\r\n")[0]
        if len(data) > MAX_MESSAGE_BYTES or b"\n" in data.replace(b"\r\n", b"") or b"From:" not in head:
            raise _refused("BadRequestException")

    def _verify(self, request: web.Request, body: bytes) -> None:
        match = _AUTHORIZATION.fullmatch(request.headers.get("Authorization", ""))
        if match is None:
            raise _refused("MissingAuthenticationTokenException", 403)
        key_id, date, region, service, names, signature = match.groups()
        if key_id != self._access_key_id:
            raise _refused("UnrecognizedClientException", 403)
        if region != self._region or service != "ses":
            raise _refused("SignatureDoesNotMatch", 403)
        at = request.headers.get("X-Amz-Date", "")
        if not re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", at) or not at.startswith(date):
            raise _refused("IncompleteSignatureException", 403)
        signed = names.split(";")
        if not {"host", "x-amz-date"} <= set(signed) or signed != sorted(signed):
            raise _refused("IncompleteSignatureException", 403)
        if not hmac.compare_digest(signature, self._signature(request, body, signed, at, region, service)):
            raise _refused("SignatureDoesNotMatch", 403)
        now = time.time() + self._clock_offset  # noqa: TID251
        then = datetime.strptime(at, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        if abs(now - then) > MAX_SKEW_SECONDS:
            raise _refused("RequestExpired", 403)

    def _signature(
        self, request: web.Request, body: bytes, names: list[str], at: str, region: str, service: str
    ) -> str:
        lines = "".join(f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in names)
        path = quote(request.rel_url.raw_path, safe="/-._~")
        query = "&".join(sorted(request.rel_url.raw_query_string.split("&")))
        canonical = "\n".join(
            (request.method, path, query, lines, ";".join(names), hashlib.sha256(body).hexdigest())
        )
        scope = f"{at[:8]}/{region}/{service}/aws4_request"
        to_sign = f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = b"AWS4" + self._secret_key.encode()
        for part in (at[:8], region, service, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.digest(key, to_sign.encode(), "sha256").hex()


def _identities(sender: object) -> set[str]:
    """The address and the domain of a sender; empty when it is not one address."""
    found = getaddresses([sender]) if isinstance(sender, str) else []
    if len(found) != 1:
        return set()
    address = parseaddr(str(sender))[1]
    return {address, address.rpartition("@")[2]}


def main() -> None:
    """The command line."""
    run(
        "ses_platform",
        __doc__,
        {
            "access-key-id": ("the only access key that is accepted", None),
            "secret-key": ("its secret", None),
            "region": ("the region that requests are signed for", None),
            "identity": ("the verified address or domain", None),
            "configuration-set": ("the only configuration set there is", ""),
            "clock-offset": ("how many seconds its clock is ahead", "0"),
        },
        lambda given: SesPlatform(
            given.access_key_id,
            given.secret_key,
            given.region,
            given.identity,
            given.configuration_set,
            float(given.clock_offset),
            given.port,
            given.misbehave,
        ),
    )


if __name__ == "__main__":
    main()
