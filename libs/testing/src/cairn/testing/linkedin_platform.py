"""Owns a stand-in for LinkedIn's DMP segment users, which checks what the platform checks and remembers who is a member.

It answers with a status for each person.
"""

import json
from typing import Any

from aiohttp import web

from cairn.testing.audience_platform import AudiencePlatform, Person, Refused, is_hash, run_platform

HASH_CHARS = {"SHA256_EMAIL": 64, "SHA512_EMAIL": 128}
IDENTIFIERS = frozenset({*HASH_CHARS, "GOOGLE_AID"})
MAX_ELEMENTS = 5_000
OLDEST_VERSION = 202_512


def _error(status: int, message: str) -> Refused:
    """An error as the platform words it."""
    return Refused(status, {"status": status, "serviceErrorCode": 100, "message": message})


class LinkedinPlatform(AudiencePlatform):
    """DMP segments."""

    def __init__(self, token: str, port: int = 0) -> None:
        super().__init__(port)
        self._token = token

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/rest/dmpSegments/{segment}/users", self.guarded(self._users))

    def busy(self, status: int) -> Refused:
        if status == 429:
            return _error(429, "Resource level throttle limit for calls to this resource is reached.")
        return _error(500, "Internal Server Error")

    def _users(self, request: web.Request, body: bytes) -> dict[str, Any]:
        self._check_head(request)
        try:
            asked = json.loads(body)
        except ValueError:
            raise _error(400, "Could not read the entity") from None
        if not isinstance(asked, dict) or set(asked) != {"elements"}:
            raise _error(400, "The only field is elements")
        elements = asked["elements"]
        if not isinstance(elements, list) or not 1 <= len(elements) <= MAX_ELEMENTS:
            raise _error(400, f"elements has 1 to {MAX_ELEMENTS} entries")
        segment = request.match_info["segment"]
        return {"elements": [self._change(segment, element) for element in elements]}

    def _check_head(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {self._token}":
            raise _error(401, "Invalid access token")
        version = request.headers.get("LinkedIn-Version", "")
        if len(version) != 6 or not version.isdigit():
            raise _error(400, "The header LinkedIn-Version is required, YYYYMM")
        if int(version) < OLDEST_VERSION:
            raise _error(426, f"Requested version {version}01 is not active")
        if request.headers.get("X-Restli-Protocol-Version") != "2.0.0":
            raise _error(400, "X-Restli-Protocol-Version has to be 2.0.0")
        if request.headers.get("X-RestLi-Method") != "BATCH_CREATE":
            raise _error(400, "X-RestLi-Method has to be BATCH_CREATE for several elements")

    def _change(self, segment: str, element: Any) -> dict[str, Any]:
        person = _read_element(element)
        if person is None:
            self.counts["refused"] += 1
            return _element_error(400)
        if self.refuses(value for _, value in person):
            return _element_error(self.refused_status)
        (self.add if element["action"] == "ADD" else self.remove)(segment, person)
        return {"status": 201}


def _read_element(element: Any) -> Person | None:
    """Who it is; None when it is not as it has to be."""
    try:
        pairs = [(user["idType"], user["idValue"]) for user in element["userIds"]]
        right = set(element) == {"action", "userIds"} and element["action"] in {"ADD", "REMOVE"}
    except (KeyError, TypeError):
        return None
    for name, value in pairs:
        if (
            name not in IDENTIFIERS
            or not value
            or (name in HASH_CHARS and not is_hash(value, HASH_CHARS[name]))
        ):
            return None
    return frozenset(pairs) if right and pairs else None


def _element_error(status: int) -> dict[str, Any]:
    return {"status": status, "error": {"status": status, "message": "The element was not taken"}}


def main() -> None:
    """The command line."""
    run_platform(
        "linkedin_platform",
        __doc__,
        {"token": "the only access token that is accepted"},
        lambda given: LinkedinPlatform(given.token, given.port),
    )


if __name__ == "__main__":
    main()
