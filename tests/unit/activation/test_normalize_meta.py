"""`meta/1`: identifiers as the platform publishes them."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.activation.normalize_meta import META

HASH = "b" * 64
IDENTIFIERS = META.identifiers
UNHASHED = {"MADID", "EXTERN_ID"}
normalize = META.normalize


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("identifier", "value", "written"),
    [
        ("EMAIL", " John_Smith@GMAIL.com ", "john_smith@gmail.com"),
        (
            "EMAIL",
            "j.o.h.n+shop@gmail.com",
            "j.o.h.n+shop@gmail.com",
        ),  # dots and suffixes stay: not Google's rules
        ("PHONE", "(650) 555-1212", "6505551212"),
        ("PHONE", "+1 (650) 555-1212", "16505551212"),
        ("PHONE", "0044 20 7946 0958", "442079460958"),
        ("FN", " Mary ", "mary"),
        ("FN", "Valéry", "valéry"),
        ("FN", "정", "정"),
        ("LN", "O'Neill-Smith", "oneillsmith"),
        ("CT", "Menlo Park", "menlopark"),
        ("ST", "C.A.", "ca"),
        ("ZIP", "94 035-1234", "940351234"),
        ("ZIP", "M1 1AE", "m11ae"),
        ("COUNTRY", "US", "us"),
        ("DOBY", "1985", "1985"),
        ("DOBM", "2", "02"),
        ("DOBD", "09", "09"),
        ("GEN", "Female", "f"),
    ],
)
def test_published_examples(identifier: str, value: str, written: str) -> None:
    assert normalize(identifier, value) == sha(written)


def test_the_hash_of_the_published_address() -> None:
    # The example of the platform's own documentation.
    assert normalize("EMAIL", "mary@example.com") == (
        "f1904cf1a9d73a55fa5de0ac823c4403ded71afd4c3248d00bdcd0866552bb79"
    )


@pytest.mark.parametrize(
    ("identifier", "value", "written"),
    [("MADID", " AB1234CD-E123-12FG-J123 ", "ab1234cd-e123-12fg-j123"), ("EXTERN_ID", " User#1 ", "User#1")],
)
def test_what_is_not_hashed(identifier: str, value: str, written: str) -> None:
    assert normalize(identifier, value) == written


@pytest.mark.parametrize("identifier", sorted(IDENTIFIERS - UNHASHED))
def test_a_hash_is_never_hashed_again(identifier: str) -> None:
    assert normalize(identifier, HASH) == HASH
    assert normalize(identifier, f" {HASH.upper()} ") == HASH


@pytest.mark.parametrize(
    ("identifier", "value"),
    [
        *((identifier, blank) for identifier in sorted(IDENTIFIERS) for blank in ("", "  ")),
        ("EMAIL", "nobody"),
        ("PHONE", "none"),
        ("PHONE", "000"),
        ("COUNTRY", "Japan"),
        ("DOBM", "13"),
        ("DOBD", "0"),
        ("DOBY", "85"),
        ("GEN", "x"),
        ("LN", "-"),
    ],
)
def test_what_could_match_nobody_is_left_out_and_nothing_empty_is_hashed(identifier: str, value: str) -> None:
    assert normalize(identifier, value) == ""


@given(st.sampled_from(sorted(IDENTIFIERS - UNHASHED)), st.text())
def test_hashed_identifiers_are_hashes_or_nothing_and_stable(identifier: str, value: str) -> None:
    once = normalize(identifier, value)
    assert once == "" or (len(once) == 64 and set(once) <= set("0123456789abcdef"))
    assert once != sha("")
    assert normalize(identifier, once) == once
