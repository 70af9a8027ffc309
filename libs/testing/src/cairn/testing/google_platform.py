"""Owns a stand-in for Google's Data Manager API and its token server, which checks what they check and remembers who is a member.

It fails fast, as they do: one member that can't be read, and nothing of the call is taken. Beside what every platform has there is
`POST /_revoke`, after which the access tokens that were given out are good no longer.
"""

import json
from typing import Any

from aiohttp import web

from cairn.testing.audience_platform import AudiencePlatform, Person, Refused, is_hash, run_platform

MAX_MEMBERS = 10_000
MAX_IDENTIFIERS = 10
IDENTIFIERS = {"emailAddress": "EMAIL", "phoneNumber": "PHONE"}
TOKEN_SECONDS = 3599

_INGEST = frozenset(
    {
        "destinations",
        "audienceMembers",
        "consent",
        "validateOnly",
        "encoding",
        "encryptionInfo",
        "termsOfService",
    }
)
_REMOVE = frozenset({"destinations", "audienceMembers", "validateOnly", "encoding", "encryptionInfo"})
_CONSENT = {"CONSENT_STATUS_UNSPECIFIED", "CONSENT_GRANTED", "CONSENT_DENIED"}


def _error(status: int, name: str, *details: dict[str, Any]) -> Refused:
    """An error as Google's APIs word it."""
    return Refused(
        status,
        {
            "error": {
                "code": status,
                "message": "There was a problem.",
                "status": name,
                "details": list(details),
            }
        },
    )


def _violations(*violations: tuple[str, str]) -> Refused:
    """What is wrong, as (field, reason)."""
    fields = [
        {"field": field, "description": "The value is malformed.", "reason": reason}
        for field, reason in violations
    ]
    detail = {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": fields}
    return _error(400, "INVALID_ARGUMENT", detail)


class GooglePlatform(AudiencePlatform):
    """User lists of one ads account."""

    def __init__(self, client_secret: str, refresh_token: str, account: str, port: int = 0) -> None:
        super().__init__(port)
        self._client_secret = client_secret
        self._refresh_token = refresh_token
        self._account = account
        self._tokens: set[str] = set()

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/token", self._token)
        app.router.add_post("/_revoke", self._revoke)
        app.router.add_post("/v1/audienceMembers:ingest", self.guarded(self._ingest))
        app.router.add_post("/v1/audienceMembers:remove", self.guarded(self._remove))

    def busy(self, status: int) -> Refused:
        if status == 429:
            pause = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.1s"}
            return _error(429, "RESOURCE_EXHAUSTED", pause)
        return _error(500, "INTERNAL")

    async def _token(self, request: web.Request) -> web.Response:
        self.counts["tokens"] += 1
        form = await request.post()
        if form.get("grant_type") != "refresh_token" or not form.get("client_id"):
            return web.json_response({"error": "invalid_request"}, status=400)
        if form.get("client_secret") != self._client_secret:
            return web.json_response({"error": "invalid_client"}, status=401)
        if form.get("refresh_token") != self._refresh_token:
            return web.json_response({"error": "invalid_grant"}, status=400)
        token = f"ya29.{self.counts['tokens']}"
        self._tokens.add(token)
        return web.json_response({"access_token": token, "expires_in": TOKEN_SECONDS, "token_type": "Bearer"})

    async def _revoke(self, _request: web.Request) -> web.Response:
        self._tokens.clear()
        return web.json_response({})

    def _ingest(self, request: web.Request, body: bytes) -> dict[str, Any]:
        asked = self._read(request, body, _INGEST)
        if asked.get("termsOfService") != {"customerMatchTermsOfServiceStatus": "ACCEPTED"}:
            raise _violations(("terms_of_service", "TERMS_AND_CONDITIONS_NOT_SIGNED"))
        consent = asked.get("consent", {})
        if not {"adUserData", "adPersonalization"}.issuperset(consent) or not _CONSENT.issuperset(
            consent.values()
        ):
            raise _violations(("consent", "INVALID_ENUM_VALUE"))
        self.counts["with_consent"] += "consent" in asked
        return self._change(asked, self.add)

    def _remove(self, request: web.Request, body: bytes) -> dict[str, Any]:
        return self._change(self._read(request, body, _REMOVE), self.remove)

    def _change(self, asked: dict[str, Any], change: Any) -> dict[str, Any]:
        people = self._people_of(asked["audienceMembers"])
        if asked.get("validateOnly") is not True:
            for person in people:
                change(asked["destinations"][0]["productDestinationId"], person)
        return {"requestId": f"request-{self.counts['calls']}"}

    def _read(self, request: web.Request, body: bytes, fields: frozenset[str]) -> dict[str, Any]:
        if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self._tokens:
            raise _error(401, "UNAUTHENTICATED")
        try:
            asked = json.loads(body)
        except ValueError:
            raise _error(400, "INVALID_ARGUMENT") from None
        if not isinstance(asked, dict) or not fields.issuperset(asked):
            raise _error(400, "INVALID_ARGUMENT")
        if asked.get("encoding") != "HEX":
            raise _violations(("encoding", "REQUIRED_FIELD_MISSING"))
        account = {"accountType": "GOOGLE_ADS", "accountId": self._account}
        destinations = asked.get("destinations")
        if not isinstance(destinations, list) or len(destinations) != 1:
            raise _violations(("destinations", "REQUIRED_FIELD_MISSING"))
        destination = destinations[0]
        if destination.get("operatingAccount") != account or "loginAccount" not in destination:
            raise _error(403, "PERMISSION_DENIED")
        if not str(destination.get("productDestinationId", "")).isdigit():
            raise _violations(("destinations.destinations[0]", "INVALID_DESTINATION"))
        members = asked.get("audienceMembers")
        if not isinstance(members, list) or not members:
            raise _violations(("audience_members", "REQUIRED_FIELD_MISSING"))
        if len(members) > MAX_MEMBERS:
            raise _violations(("audience_members", "TOO_MANY_AUDIENCE_MEMBERS"))
        return asked

    def _people_of(self, members: list[Any]) -> list[Person]:
        people, wrong = [], []
        for place, member in enumerate(members):
            field = f"audience_members.audience_members[{place}].user_data"
            try:
                person, reason = _read_member(member)
            except (KeyError, TypeError, AttributeError, ValueError):
                raise _error(400, "INVALID_ARGUMENT") from None
            if not reason and self.refuses(value for _, value in person):
                reason = "INVALID_AUDIENCE_MEMBER"
            if reason:
                wrong.append((f"{field}.user_identifiers[0]", reason))
            else:
                people.append(person)
        if wrong:
            raise _violations(*wrong)
        return people


def _read_member(member: Any) -> tuple[Person, str]:
    """Who it is, and why they are refused, or ""."""
    if set(member) != {"userData"} or set(member["userData"]) != {"userIdentifiers"}:
        raise ValueError
    identifiers = member["userData"]["userIdentifiers"]
    if not identifiers:
        return frozenset(), "REQUIRED_FIELD_MISSING"
    if len(identifiers) > MAX_IDENTIFIERS:
        return frozenset(), "TOO_MANY_USER_IDENTIFIERS"
    pairs = []
    for identifier in identifiers:
        ((name, value),) = identifier.items()
        if not is_hash(value):
            return frozenset(), "INVALID_SHA256_FORMAT"
        pairs.append((IDENTIFIERS[name], value))
    return frozenset(pairs), ""


def main() -> None:
    """The command line."""
    run_platform(
        "google_platform",
        __doc__,
        {
            "client-secret": "the only client secret that is accepted",
            "refresh-token": "the only refresh token that is accepted",
            "account": "the ads account that the caller may change",
        },
        lambda given: GooglePlatform(given.client_secret, given.refresh_token, given.account, given.port),
    )


if __name__ == "__main__":
    main()
