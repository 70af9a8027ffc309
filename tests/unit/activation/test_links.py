"""Unsubscribe addresses and keyed hashes: the same for the same, unreadable, impossible to forge."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.activation.keys import Keys
from cairn.activation.links import MAX_TOKEN_CHARS, Links, Subscriber

LINKS = Links(b"k" * 32, "https://mail.example.com/")
KEYS = Keys(b"h" * 32, b"l" * 32)
ADDRESSES = st.from_regex(r"[a-z.]{1,64}@[a-z]{1,63}\.com", fullmatch=True)


@given(st.from_regex(r"[a-z][a-z0-9-]{0,61}", fullmatch=True), ADDRESSES)
def test_a_token_stands_for_one_subscriber_and_tells_nothing(connection: str, address: str) -> None:
    url = LINKS.unsubscribe_url(connection, address)
    assert url == LINKS.unsubscribe_url(connection, address)
    token = url.removeprefix("https://mail.example.com/u/")
    assert re.fullmatch(r"[A-Za-z0-9_-]+", token)
    assert len(token) <= MAX_TOKEN_CHARS
    assert LINKS.read(token) == Subscriber(connection, address)
    assert Links(b"x" * 32, "").read(token) is None, "another key opens nothing"


def test_an_address_is_short_enough_for_one_line_of_a_header() -> None:
    url = LINKS.unsubscribe_url("email", "somebody.with.a.long.name@mail.example.com")
    assert len("List-Unsubscribe: <>" + url) < 150


@given(st.integers(0, 200), st.sampled_from("ABCabc019-_"))
def test_a_changed_or_cut_token_is_none(place: int, letter: str) -> None:
    token = LINKS.token("email", "ada@example.com")
    place %= len(token)
    changed = token[:place] + letter + token[place + 1 :]
    # The last letter carries bits that mean nothing: what decodes to the same bytes is the same token.
    if changed != token and place < len(token) - 1:
        assert LINKS.read(changed) is None
    assert LINKS.read(token[:place]) is None


@given(st.text())
def test_what_is_no_token_at_all_is_none(text: str) -> None:
    assert LINKS.read(text) is None


def test_a_token_is_no_longer_than_it_has_to_be() -> None:
    longest = LINKS.token("c" * 63, "a" * 64 + "@" + "d" * 189)
    assert LINKS.read(longest) is not None
    assert LINKS.read(LINKS.token("email", "a" * MAX_TOKEN_CHARS + "@example.com")) is None


def test_addresses_in_mail_that_was_sent_years_ago_still_hold() -> None:
    sent = "orSvu_xg0_b1jFpx6DsxAOuvi5JrBywhZ1pA3EW9pbqVxCFJew"
    assert LINKS.token("email", "ada@example.com") == sent
    assert LINKS.read(sent) == Subscriber("email", "ada@example.com")


def test_the_hash_of_an_address_does_not_know_its_case() -> None:
    assert KEYS.hash_address(" Ada@Example.COM ") == KEYS.hash_address("ada@example.com")
    assert KEYS.hash_address("ada@example.com") != KEYS.hash_address("bob@example.com")
    assert Keys(b"x" * 32, b"l" * 32).hash_address("a@b.c") != KEYS.hash_address("a@b.c"), "the key counts"


def test_the_hash_of_a_profile_is_of_its_exact_id_and_no_address() -> None:
    assert KEYS.hash_profile("Ada") != KEYS.hash_profile("ada")
    assert KEYS.hash_profile("ada@example.com") != KEYS.hash_address("ada@example.com")
    assert len(KEYS.hash_profile("p")) == 32


@pytest.mark.parametrize("text", ["repr", "str"])
def test_keys_are_not_shown(text: str) -> None:
    shown = repr(KEYS) if text == "repr" else str(KEYS)
    assert "hhh" not in shown
    assert "lll" not in shown
