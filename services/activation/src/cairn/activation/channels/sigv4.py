"""Owns AWS Signature Version 4, with the headers of a request signed. Pure.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html; the tests have AWS's own examples.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import quote, unquote

from yarl import URL

from cairn.runtime.clock import to_datetime

_ALGORITHM = "AWS4-HMAC-SHA256"
_UNRESERVED = "-._~"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who signs, and for which service where."""

    access_key_id: str
    secret_key: str = field(repr=False)
    region: str
    service: str


def sign(
    credentials: Credentials, method: str, url: URL, headers: Mapping[str, str], body: bytes, now: int
) -> dict[str, str]:
    """The headers that make a request a signed one at time `now` (microseconds): `X-Amz-Date` and `Authorization`.

    `headers` are those that must not be changed on the way; the `Host` is signed as HTTP clients write it, without a default port.
    """
    time = to_datetime(now).strftime("%Y%m%dT%H%M%SZ")
    signed = {"host": url.host_port_subcomponent or "", **{n.lower(): v for n, v in headers.items()}}
    signed["x-amz-date"] = time
    request = canonical_request(method, url, signed, body)
    scope = f"{time[:8]}/{credentials.region}/{credentials.service}/aws4_request"
    to_sign = "\n".join((_ALGORITHM, time, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = signing_key(credentials.secret_key, time[:8], credentials.region, credentials.service)
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    names = ";".join(sorted(signed))
    return {
        "X-Amz-Date": time,
        "Authorization": f"{_ALGORITHM} Credential={credentials.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}",
    }


def canonical_request(method: str, url: URL, headers: Mapping[str, str], body: bytes) -> str:
    """The request in the one form that both sides can make of it; header names are in lower case."""
    # What stands in the request is encoded once more, as for every service but S3.
    path = quote(url.raw_path or "/", safe=f"/{_UNRESERVED}")
    pairs = [part.partition("=") for part in url.raw_query_string.split("&") if part]
    query = "&".join(sorted(f"{_encode(name)}={_encode(value)}" for name, _, value in pairs))
    lines = [f"{name}:{' '.join(value.split())}\n" for name, value in sorted(headers.items())]
    names = ";".join(sorted(headers))
    return "\n".join((method, path, query, "".join(lines), names, hashlib.sha256(body).hexdigest()))


@lru_cache(maxsize=64)
def signing_key(secret_key: str, date: str, region: str, service: str) -> bytes:
    """The key of a day, `20150830`, for a service in a region."""
    key = f"AWS4{secret_key}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def _encode(text: str) -> str:
    return quote(unquote(text), safe=_UNRESERVED)
