"""Owns a stand-in for version 3 of SendGrid's API, which checks what SendGrid checks and remembers the messages it took."""

import json
import re
import time
from typing import Any

from aiohttp import web

from cairn.testing.http_standin import HttpStandIn, Refused, run

MAX_RECIPIENTS = 1_000
MAX_CUSTOM_ARGS_BYTES = 10_000
MAX_MESSAGE_BYTES = 30 * 1024 * 1024

_ADDRESS = re.compile(r"[^@\s<>]+@[^@\s<>]+\.[^@\s<>]+")
_FIELDS = frozenset(
    {
        "personalizations",
        "from",
        "reply_to",
        "subject",
        "content",
        "headers",
        "categories",
        "custom_args",
        "asm",
        "attachments",
        "ip_pool_name",
        "mail_settings",
        "send_at",
        "batch_id",
        "template_id",
        "tracking_settings",
    }
)
_PERSONALIZATION = frozenset(
    {
        "to",
        "cc",
        "bcc",
        "from",
        "subject",
        "headers",
        "substitutions",
        "dynamic_template_data",
        "custom_args",
        "send_at",
    }
)
_RESERVED_HEADERS = frozenset(
    {
        "x-sg-id",
        "x-sg-eid",
        "received",
        "dkim-signature",
        "content-type",
        "content-transfer-encoding",
        "to",
        "from",
        "subject",
        "reply-to",
        "cc",
        "bcc",
    }
)


def _refused(status: int, message: str, field: str | None = None) -> Refused:
    """An error as SendGrid words it. The message may quote an address, as theirs does."""
    return Refused(status, {"errors": [{"message": f"{message} (somebody@example.com)", "field": field}]})


class SendgridPlatform(HttpStandIn):
    """One account with one API key."""

    def __init__(
        self,
        api_key: str,
        sender: str,
        scopes: str = "mail.send",
        reset_after: str = "",
        port: int = 0,
        mode: str = "",
    ) -> None:
        super().__init__(port, mode)
        self._api_key = api_key
        self._sender = sender
        self._scopes = [scope for scope in scopes.split(",") if scope]
        self._reset_after = reset_after
        self._messages: list[dict[str, Any]] = []

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/v3/mail/send", self.guarded(self._send))
        app.router.add_get("/v3/scopes", self.guarded(self._on_scopes))

    def busy(self, status: int) -> Refused:
        error = _refused(status, "too many requests" if status == 429 else "internal error")
        if status == 429 and self._reset_after:
            at = int(time.time() + float(self._reset_after))  # noqa: TID251
            error.headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(at)}
        return error

    def error(self, mode: str) -> Refused | None:
        if mode == "credits":
            return _refused(401, "Maximum credits exceeded")
        return _refused(int(mode), "as asked") if re.fullmatch(r"[45][0-9][0-9]", mode) else None

    def state(self) -> dict[str, Any]:
        return {"messages": self._messages}

    def _on_scopes(self, request: web.Request, _body: bytes) -> web.Response:
        self._check_key(request)
        return web.json_response({"scopes": self._scopes})

    def _check_key(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {self._api_key}":
            raise _refused(401, "The provided authorization grant is invalid, expired, or revoked")
        if "application/json" not in request.headers.get("Accept", "*/*"):
            raise _refused(406, "Missing Accept header")

    def _send(self, request: web.Request, body: bytes) -> web.Response:
        self._check_key(request)
        if "mail.send" not in self._scopes:
            raise _refused(403, "access forbidden")
        if len(body) > MAX_MESSAGE_BYTES:
            raise _refused(413, "payload too large")
        if request.content_type != "application/json":
            raise _refused(415, "unsupported media type")
        try:
            asked = json.loads(body)
        except ValueError:
            raise _refused(400, "Bad Request") from None
        if not isinstance(asked, dict) or not _FIELDS.issuperset(asked):
            raise _refused(400, "The request has fields that are not known")
        self._check_sender(asked.get("from"))
        person = self._check_person(asked.get("personalizations"))
        self._check_words(asked)
        message_id = f"sg-{len(self._messages) + 1:06d}"
        self._messages.append(
            {
                "to": person["to"][0]["email"],
                "from": asked["from"],
                "subject": asked["subject"],
                "headers": asked.get("headers", {}),
                "custom_args": person.get("custom_args", {}),
                "content": asked["content"],
                "message_id": message_id,
            }
        )
        return web.Response(status=202, headers={"X-Message-Id": message_id})

    def _check_sender(self, sender: Any) -> None:
        if not isinstance(sender, dict) or not {"email", "name"}.issuperset(sender) or "email" not in sender:
            raise _refused(400, "The from object must be provided for every email send", "from.email")
        if sender["email"] != self._sender:
            raise _refused(403, "The from address does not match a verified Sender Identity", "from")

    def _check_person(self, people: Any) -> dict[str, Any]:
        if not isinstance(people, list) or not 1 <= len(people) <= MAX_RECIPIENTS:
            raise _refused(400, "You must have at least one personalization.", "personalizations")
        person = people[0]
        if not isinstance(person, dict) or not _PERSONALIZATION.issuperset(person):
            raise _refused(400, "A personalization has fields that are not known", "personalizations.0")
        to = person.get("to")
        if not isinstance(to, list) or len(to) != 1 or not _ADDRESS.fullmatch(to[0].get("email", "")):
            raise _refused(400, "Does not contain a valid address.", "personalizations.0.to.0.email")
        given = person.get("custom_args", {})
        if (
            not all(isinstance(value, str) for value in given.values())
            or len(json.dumps(given)) > MAX_CUSTOM_ARGS_BYTES
        ):
            raise _refused(400, "custom_args must be strings, 10,000 bytes", "personalizations.0.custom_args")
        return person

    def _check_words(self, asked: dict[str, Any]) -> None:
        if not isinstance(asked.get("subject"), str) or not asked["subject"]:
            raise _refused(400, "The subject is required.", "subject")
        content = asked.get("content")
        if not isinstance(content, list) or not content:
            raise _refused(400, "The content is required.", "content")
        kinds = [part.get("type") for part in content]
        if kinds not in (["text/plain"], ["text/html"], ["text/plain", "text/html"]):
            raise _refused(400, "text/plain must be first, followed by text/html", "content")
        for number, part in enumerate(content):
            if not isinstance(part.get("value"), str) or not part["value"]:
                raise _refused(400, "The content value must be a string", f"content.{number}.value")
        for name, value in asked.get("headers", {}).items():
            if name.lower() in _RESERVED_HEADERS or not isinstance(value, str) or not value.isascii():
                raise _refused(400, "A header is reserved, or is not ASCII", f"headers.{name}")


def main() -> None:
    """The command line."""
    run(
        "sendgrid_platform",
        __doc__,
        {
            "api-key": ("the only API key that is accepted", None),
            "sender": ("the verified address of the sender", None),
            "scopes": ("what the key may do, with commas", "mail.send"),
            "reset-after": ("a 429 has X-RateLimit-Reset, so many seconds ahead", ""),
        },
        lambda given: SendgridPlatform(
            given.api_key, given.sender, given.scopes, given.reset_after, given.port, given.misbehave
        ),
    )


if __name__ == "__main__":
    main()
