"""The tokens file, the token file, and what counts as this machine alone."""

import hashlib

import pytest

from cairn.runtime.auth import ALLOWED, Role, is_loopback, parse_token, parse_tokens, token_digest
from cairn.runtime.correlation import accept_correlation_id
from cairn.runtime.ids import random_id

DIGEST = hashlib.sha256(b"secret").hexdigest()
ENTRY = f'- {{name: shop, role: PRODUCE, sha256: "{DIGEST}"}}\n'


def test_callers_are_read_with_their_roles() -> None:
    (caller,) = parse_tokens(ENTRY)
    assert (caller.name, caller.role, caller.digest) == ("shop", Role.PRODUCE, token_digest("secret"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must be a list"),
        ("[", "is not YAML"),
        ("{name: shop}", "must be a list"),
        ("- shop", "entry 1 must have exactly name, role and sha256"),
        (ENTRY + "- {name: x, role: READ}", "entry 2 must have exactly"),
        (ENTRY.replace("PRODUCE", "ADMIN"), "role must be one of READ, PRODUCE, OPERATE"),
        (ENTRY.replace("name: shop", "name: 7"), "name must be a text"),
        (ENTRY.replace(DIGEST, DIGEST[:-1]), "sha256 must be 64 hexadecimal digits"),
        (ENTRY.replace(DIGEST, "secret"), "sha256 must be 64 hexadecimal digits"),
        (ENTRY.replace(f'"{DIGEST}"', "12"), "sha256 must be 64 hexadecimal digits"),
        (ENTRY + ENTRY.replace("shop", "till"), "two callers have the same token"),
    ],
)
def test_a_wrong_tokens_file_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        parse_tokens(text)
    assert DIGEST not in str(caught.value)


@pytest.mark.parametrize("text", ["", " \n", "two words", "zwölf", "line\nline"])
def test_a_wrong_token_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="one token"):
        parse_token(text)


def test_a_token_may_end_with_a_line_break() -> None:
    assert parse_token("secret\n") == "secret"


def test_operators_may_do_all_and_only_they_operate() -> None:
    assert all(Role.OPERATE in roles for roles in ALLOWED.values())
    assert ALLOWED[Role.OPERATE] == {Role.OPERATE}
    assert set(ALLOWED) == set(Role)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("evaluator", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize("offered", ["a", "case-7", "x" * 64, "!~"])
def test_a_good_correlation_id_is_kept(offered: str) -> None:
    assert accept_correlation_id(offered) == offered


@pytest.mark.parametrize("offered", [None, "", "x" * 65, "a b", "a\nb", "é", b"bytes"])
def test_a_bad_correlation_id_is_replaced_by_a_fresh_one(offered: str | bytes | None) -> None:
    first, second = accept_correlation_id(offered), accept_correlation_id(offered)
    assert len(first) == len(second) == 16
    assert first != second


def test_a_random_id_fits_a_bigint() -> None:
    drawn = {random_id() for _ in range(1000)}
    assert len(drawn) == 1000
    assert all(0 < number < 2**63 for number in drawn)
