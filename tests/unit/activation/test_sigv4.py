"""Signatures against AWS's own examples: its Signature Version 4 test suite, and the IAM request of its documentation."""

import hashlib

import pytest
from yarl import URL

from cairn.activation.channels.sigv4 import Credentials, canonical_request, sign, signing_key

# 2015-08-30T12:36:00Z, the time of all of them.
NOW = 1_440_938_160_000_000
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
SUITE = Credentials("AKIDEXAMPLE", SECRET, "us-east-1", "service")


@pytest.mark.parametrize(
    ("case", "method", "target", "headers", "body", "names", "signature"),
    [
        (
            "get-vanilla",
            "GET",
            "/",
            {},
            b"",
            "host;x-amz-date",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        (
            "get-vanilla-query-order-key-case",
            "GET",
            "/?Param2=value2&Param1=value1",
            {},
            b"",
            "host;x-amz-date",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            "get-unreserved",
            "GET",
            "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
            {},
            b"",
            "host;x-amz-date",
            "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
        ),
        (
            "get-header-value-trim",
            "GET",
            "/",
            {"My-Header1": " value1", "My-Header2": ' "a   b   c"'},
            b"",
            "host;my-header1;my-header2;x-amz-date",
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
        ),
        (
            "post-vanilla",
            "POST",
            "/",
            {},
            b"",
            "host;x-amz-date",
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        ),
        (
            "post-x-www-form-urlencoded",
            "POST",
            "/",
            {"Content-Type": "application/x-www-form-urlencoded"},
            b"Param1=value1",
            "content-type;host;x-amz-date",
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        ),
    ],
)
def test_the_test_suite_of_aws(
    case: str, method: str, target: str, headers: dict[str, str], body: bytes, names: str, signature: str
) -> None:
    url = URL(f"https://example.amazonaws.com{target}", encoded=True)
    assert sign(SUITE, method, url, headers, body, NOW) == {
        "X-Amz-Date": "20150830T123600Z",
        "Authorization": "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders={names}, Signature={signature}",
    }


def test_the_request_of_the_documentation() -> None:
    url = URL("https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08", encoded=True)
    content_type = "application/x-www-form-urlencoded; charset=utf-8"
    headers = {"content-type": content_type, "host": "iam.amazonaws.com", "x-amz-date": "20150830T123600Z"}
    request = canonical_request("GET", url, headers, b"")
    assert (
        hashlib.sha256(request.encode()).hexdigest()
        == "f536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59"
    )
    assert (
        signing_key(SECRET, "20150830", "us-east-1", "iam").hex()
        == "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"
    )
    credentials = Credentials("AKIDEXAMPLE", SECRET, "us-east-1", "iam")
    signed = sign(credentials, "GET", url, {"Content-Type": content_type}, b"", NOW)
    assert signed["Authorization"].endswith(
        "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
    )


def test_what_is_signed_and_what_is_told() -> None:
    plain = URL("https://email.eu-central-1.amazonaws.com/v2/email/outbound-emails")
    credentials = Credentials("AKIDEXAMPLE", SECRET, "eu-central-1", "ses")
    signatures = {
        sign(credentials, method, url, headers, body, now)["Authorization"]
        for method, url, headers, body, now in [
            ("POST", plain, {}, b"a", NOW),
            ("PUT", plain, {}, b"a", NOW),
            ("POST", plain / "x", {}, b"a", NOW),
            ("POST", plain.with_host("other.example"), {}, b"a", NOW),
            ("POST", plain.with_port(8443), {}, b"a", NOW),
            ("POST", plain, {"X": "y"}, b"a", NOW),
            ("POST", plain, {}, b"b", NOW),
            ("POST", plain, {}, b"a", NOW + 1_000_000),
            ("POST", plain, {}, b"a", NOW + 86_400_000_000),
        ]
    }
    assert len(signatures) == 9
    assert SECRET not in repr(credentials)
