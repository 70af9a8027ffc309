"""Owns a stand-in for Meta's custom audiences, which checks what the platform checks and remembers who is a member."""

import hashlib
import hmac
import json
from typing import Any

from aiohttp import web

from cairn.testing.audience_platform import AudiencePlatform, Refused, is_hash, run_platform

HASHED = frozenset(
    {"EMAIL", "PHONE", "FN", "LN", "CT", "ST", "ZIP", "COUNTRY", "DOBY", "DOBM", "DOBD", "GEN"}
)
UNHASHED = frozenset({"MADID", "EXTERN_ID"})
MAX_ROWS = 10_000
_FIELDS = frozenset({"access_token", "appsecret_proof", "payload"})


def _error(status: int, code: int, message: str, kind: str = "OAuthException") -> Refused:
    """An error as the Graph API words it."""
    return Refused(
        status, {"error": {"message": message, "type": kind, "code": code, "fbtrace_id": "stand-in"}}
    )


class MetaPlatform(AudiencePlatform):
    """Custom audiences."""

    def __init__(self, token: str, app_secret: str, port: int = 0) -> None:
        super().__init__(port)
        self._token = token
        self._proof = hmac.new(app_secret.encode(), token.encode(), hashlib.sha256).hexdigest()

    def add_routes(self, app: web.Application) -> None:
        app.router.add_route("*", "/{version}/{audience}/users", self.guarded(self._users))

    def busy(self, status: int) -> Refused:
        if status == 429:
            return _error(400, 80_003, "Too many calls to this audience")
        return _error(500, 2, "Service temporarily unavailable")

    def state(self) -> dict[str, Any]:
        state = super().state()
        members = {
            audience: sorted(list(person.values()) for person in people)
            for audience, people in state["people"].items()
        }
        return {**state, "members": members}

    def _users(self, request: web.Request, body: bytes) -> dict[str, Any]:
        if request.method not in {"POST", "DELETE"}:
            raise _error(400, 100, "Unsupported request method.", "GraphMethodException")
        try:
            form = json.loads(body)
        except ValueError:
            form = None
        if request.content_type != "application/json" or not isinstance(form, dict):
            raise _error(400, 100, "The body is no JSON object")
        if not _FIELDS.issuperset(form):
            raise _error(400, 100, "Invalid parameter: there is one that is not known")
        self._check_caller(form)
        schema, rows = _read_rows(form.get("payload"))
        audience = request.match_info["audience"]
        change = self.add if request.method == "POST" else self.remove
        invalid: dict[str, str] = {}
        for row in rows:
            if self.refuses(row):
                invalid[next(filter(None, row))] = "malformed"
            else:
                change(
                    audience,
                    frozenset((name, value) for name, value in zip(schema, row, strict=True) if value),
                )
        return {
            "audience_id": audience,
            "session_id": str(self.counts["calls"]),
            "num_received": len(rows),
            "num_invalid_entries": len(invalid),
            "invalid_entry_samples": invalid,
        }

    def _check_caller(self, form: dict[str, Any]) -> None:
        if not hmac.compare_digest(str(form.get("access_token", "")), self._token):
            raise _error(401, 190, "Invalid OAuth access token.")
        if not hmac.compare_digest(str(form.get("appsecret_proof", "")), self._proof):
            raise _error(400, 100, "Invalid appsecret_proof provided in the API argument")


def _read_rows(payload: Any) -> tuple[list[str], list[list[str]]]:
    """The schema and the rows of a payload, checked."""
    if not isinstance(payload, dict) or set(payload) != {"schema", "data"}:
        raise _error(400, 100, "Invalid parameter: payload")
    schema, data = payload["schema"], payload["data"]
    if not isinstance(schema, list) or not schema or not set(schema) <= HASHED | UNHASHED:
        raise _error(400, 100, "Invalid parameter: schema")
    if not isinstance(data, list) or not 1 <= len(data) <= MAX_ROWS:
        raise _error(400, 100, "Invalid parameter: data must have 1 to 10000 entries")
    hashed = [name in HASHED for name in schema]
    for row in data:
        if not isinstance(row, list) or len(row) != len(schema) or not any(row):
            raise _error(400, 100, "Invalid parameter: an entry does not match the schema")
        for wants_hash, value in zip(hashed, row, strict=True):
            if not isinstance(value, str) or (wants_hash and value and not is_hash(value)):
                raise _error(400, 100, "Invalid parameter: a value must be a SHA-256 in lower-case hex")
    return schema, data


def main() -> None:
    """The command line."""
    run_platform(
        "meta_platform",
        __doc__,
        {"token": "the only access token that is accepted", "app-secret": "what proofs are made with"},
        lambda given: MetaPlatform(given.token, given.app_secret, given.port),
    )


if __name__ == "__main__":
    main()
