"""Owns a stand-in for an operator's webhook, which checks each call's signature and age and remembers the keys of those it took.

What it answers to what it refuses: 401 for a wrong signature, 400 for a wrong age, a missing key or a body that is none.
"""

import hashlib
import hmac
import json
import re
import time
from collections import Counter
from typing import Any

from aiohttp import web

from cairn.testing.http_standin import HttpStandIn, Refused, run

MOST_AGE_SECONDS = 300

_SIGNATURE = re.compile(r"t=([0-9]{1,12}),v1=([0-9a-f]{64})")
_FIELDS = frozenset(
    {
        "activation_id",
        "profile_id",
        "journey_version",
        "stage",
        "step",
        "enrollment",
        "request_time",
        "context",
    }
)


class WebhookReceiver(HttpStandIn):
    """One secret, any path."""

    def __init__(self, secret: str, port: int = 0, mode: str = "") -> None:
        super().__init__(port, mode)
        self._secret = secret.encode()
        self._keys: Counter[str] = Counter()
        self._calls: list[dict[str, Any]] = []

    def add_routes(self, app: web.Application) -> None:
        app.router.add_route("*", "/{path:.*}", self.guarded(self._take))

    def busy(self, status: int) -> Refused:
        return Refused(status, {"error": "busy"})

    def error(self, mode: str) -> Refused | None:
        return Refused(int(mode), {"error": "as asked"}) if re.fullmatch(r"4[0-9][0-9]", mode) else None

    def state(self) -> dict[str, Any]:
        return {"keys": dict(self._keys), "taken": self._calls}

    def _take(self, request: web.Request, body: bytes) -> web.Response:
        if request.method != "POST":
            raise Refused(405, {"error": "POST only"})
        self._check_signature(request.headers.get("Cairn-Signature", ""), body)
        key = request.headers.get("Idempotency-Key", "")
        if not key:
            raise Refused(400, {"error": "no key"})
        try:
            told = json.loads(body)
        except ValueError:
            raise Refused(400, {"error": "no JSON"}) from None
        if request.content_type != "application/json" or not isinstance(told, dict) or _FIELDS - set(told):
            raise Refused(400, {"error": "no activation"})
        self._keys[key] += 1
        if self._keys[key] == 1:
            self._calls.append({"path": request.path_qs, "headers": dict(request.headers), "body": told})
        return web.json_response({"took": key}, status=202)

    def _check_signature(self, header: str, body: bytes) -> None:
        match = _SIGNATURE.fullmatch(header)
        if match is None:
            raise Refused(401, {"error": "no signature"})
        expected = hmac.new(self._secret, match[1].encode() + b"." + body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, match[2]):
            raise Refused(401, {"error": "wrong signature"})
        # The one clock of the services is not a stand-in's to use.
        if abs(time.time() - int(match[1])) > MOST_AGE_SECONDS:  # noqa: TID251
            raise Refused(400, {"error": "too old"})


def main() -> None:
    """The command line."""
    run(
        "webhook_receiver",
        __doc__,
        {"secret": ("what calls are signed with", None)},
        lambda given: WebhookReceiver(given.secret, given.port, given.misbehave),
    )


if __name__ == "__main__":
    main()
