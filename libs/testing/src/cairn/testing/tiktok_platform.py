"""Owns a stand-in for TikTok's streaming API of segments, which checks what the platform checks and remembers who is a member.

Its errors are HTTP 200 with a code, and say nothing of single people: one wrong person, and nothing of the call is taken.
"""

import json
from typing import Any

from aiohttp import web

from cairn.testing.audience_platform import AudiencePlatform, Person, Refused, is_hash, run_platform

IDENTIFIERS = frozenset({"EMAIL_SHA256", "PHONE_SHA256", "IDFA_SHA256", "AAID_SHA256"})
MAX_ROWS = 1_000
MAX_BYTES = 1_000_000

_FIELDS = frozenset({"advertiser_ids", "action", "id_schema", "batch_data"})


def _error(code: int, message: str) -> Refused:
    """An error as the platform words it."""
    return Refused(200, {"code": code, "message": message, "request_id": "stand-in", "data": {}})


class TiktokPlatform(AudiencePlatform):
    """Custom audiences of one advertiser."""

    def __init__(self, token: str, advertiser: str, port: int = 0) -> None:
        super().__init__(port)
        self._token = token
        self._advertiser = advertiser

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/open_api/v1.3/segment/mapping/", self.guarded(self._mapping))

    def busy(self, status: int) -> Refused:
        if status == 429:
            return _error(40_100, "Requests made too frequently")
        return _error(50_000, "System error")

    def _mapping(self, request: web.Request, body: bytes) -> dict[str, Any]:
        if request.headers.get("Access-Token") != self._token:
            raise _error(40_105, "Access token is incorrect or has been revoked")
        try:
            asked = json.loads(body)
        except ValueError:
            raise _error(40_002, "The body is no JSON") from None
        if request.content_type != "application/json" or set(asked) != _FIELDS:
            raise _error(40_002, "Invalid parameters")
        if asked["advertiser_ids"] != [self._advertiser]:
            raise _error(40_001, "No permission to operate advertiser")
        if asked["action"] not in {"add", "delete"}:
            raise _error(40_002, "action: is one of add, delete")
        schema, rows = asked["id_schema"], asked["batch_data"]
        if not schema or not IDENTIFIERS.issuperset(schema) or len(set(schema)) != len(schema):
            raise _error(40_002, "id_schema: is not supported")
        if not 1 <= len(rows) <= MAX_ROWS or len(body) > MAX_BYTES:
            raise _error(40_002, "batch_data: is too large")
        people = [self._read_row(schema, row) for row in rows]
        change = self.add if asked["action"] == "add" else self.remove
        for person, audiences in people:
            for audience in audiences:
                change(audience, person)
        return {"code": 0, "message": "OK", "request_id": f"request-{self.counts['calls']}", "data": {}}

    def _read_row(self, schema: list[str], row: Any) -> tuple[Person, set[str]]:
        if not isinstance(row, list) or len(row) != len(schema) or not any(row):
            raise _error(40_002, "batch_data: a row does not match id_schema")
        audiences: set[str] = set()
        pairs = []
        for name, cell in zip(schema, row, strict=True):
            if cell == {}:
                continue
            if set(cell) != {"id", "audience_ids"} or not is_hash(cell["id"]) or not cell["audience_ids"]:
                raise _error(40_002, f"batch_data: {name} must be a SHA-256 in lower-case hex")
            audiences.update(cell["audience_ids"])
            pairs.append((name, cell["id"]))
        person = frozenset(pairs)
        if self.refuses(value for _, value in person):
            raise _error(40_002, "batch_data: has an id that is not valid")
        return person, audiences


def main() -> None:
    """The command line."""
    run_platform(
        "tiktok_platform",
        __doc__,
        {
            "token": "the only access token that is accepted",
            "advertiser": "the advertiser that the caller may change",
        },
        lambda given: TiktokPlatform(given.token, given.advertiser, given.port),
    )


if __name__ == "__main__":
    main()
