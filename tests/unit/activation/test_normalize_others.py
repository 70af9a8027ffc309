"""`google/1`, `tiktok/1`, `linkedin/1`: identifiers as the platforms publish them, and what holds for every platform."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.activation.normalize import Normalizer
from cairn.activation.normalize_google import GOOGLE
from cairn.activation.normalize_linkedin import LINKEDIN
from cairn.activation.normalize_meta import META
from cairn.activation.normalize_tiktok import TIKTOK

PLATFORMS = (META, GOOGLE, TIKTOK, LINKEDIN)
PLAIN = {"MADID", "EXTERN_ID", "GOOGLE_AID"}
EACH = [(platform, identifier) for platform in PLATFORMS for identifier in sorted(platform.identifiers)]
HASHED = [(platform, identifier) for platform, identifier in EACH if identifier not in PLAIN]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def hash_chars(identifier: str) -> int:
    return 128 if identifier == "SHA512_EMAIL" else 64


@pytest.mark.parametrize(
    ("platform", "identifier", "value", "written"),
    [
        # developers.google.com/data-manager: the members of the quickstart, and the formatting guide's number.
        (GOOGLE, "EMAIL", "DanaM@example.com", "danam@example.com"),
        (GOOGLE, "EMAIL", " AlexJ@cymbalgroup.com", "alexj@cymbalgroup.com"),
        (GOOGLE, "EMAIL", "cloudySanFrancisco@GMAIL.com", "cloudysanfrancisco@gmail.com"),
        (GOOGLE, "EMAIL", "jane.doe+shop@gmail.com", "janedoe@gmail.com"),
        (GOOGLE, "EMAIL", "Jane.Doe+a+b@GoogleMail.com", "janedoe@googlemail.com"),
        (GOOGLE, "EMAIL", "jane.doe+shop@example.com", "jane.doe+shop@example.com"),
        (GOOGLE, "EMAIL", "jane.doe@notgmail.com", "jane.doe@notgmail.com"),
        (GOOGLE, "EMAIL", "jane doe @ example.com", "janedoe@example.com"),
        (GOOGLE, "PHONE", "+1 (800) 555-0100", "+18005550100"),
        (GOOGLE, "PHONE", "18005550100", "+18005550100"),
        (GOOGLE, "PHONE", "0044 20 7183 8750", "+442071838750"),
        # ads.tiktok.com/help: blanks go, dots and suffixes stay at every domain; the plus sign of a number stays.
        (TIKTOK, "EMAIL_SHA256", " John Doe@Gmail.com ", "johndoe@gmail.com"),
        (TIKTOK, "EMAIL_SHA256", "john.doe+shop@gmail.com", "john.doe+shop@gmail.com"),
        (TIKTOK, "PHONE_SHA256", "+44 207 183 8750", "+442071838750"),
        (TIKTOK, "PHONE_SHA256", "+551155256", "+551155256"),
        (
            TIKTOK,
            "IDFA_SHA256",
            " 4B61639E-47CC-4056-A16A-C8217E029462",
            "4b61639e-47cc-4056-a16a-c8217e029462",
        ),
        (
            TIKTOK,
            "AAID_SHA256",
            "2F5F5391-3E45-4D02-B645-4575A08F86E0",
            "2f5f5391-3e45-4d02-b645-4575a08f86e0",
        ),
        (LINKEDIN, "SHA256_EMAIL", " Jane.Doe+Shop@Gmail.com ", "jane.doe+shop@gmail.com"),
        (LINKEDIN, "SHA256_EMAIL", "jane doe@example.com", "janedoe@example.com"),
    ],
)
def test_published_examples(platform: Normalizer, identifier: str, value: str, written: str) -> None:
    assert platform.normalize(identifier, value) == sha256(written)


@pytest.mark.parametrize(
    ("platform", "identifier", "value", "hashed"),
    [
        # The hash that TikTok's help shows beside the address.
        (
            TIKTOK,
            "EMAIL_SHA256",
            "JaneDoe@gmail.com",
            "d6117306485ed0e50afab3ac871e98f81699151f30281527d63ff5f233656c69",
        ),
        # Meta's own example. Google and LinkedIn write this address in the same way.
        *(
            (
                platform,
                identifier,
                "mary@example.com",
                "f1904cf1a9d73a55fa5de0ac823c4403ded71afd4c3248d00bdcd0866552bb79",
            )
            for platform, identifier in ((META, "EMAIL"), (GOOGLE, "EMAIL"), (LINKEDIN, "SHA256_EMAIL"))
        ),
    ],
)
def test_published_hashes(platform: Normalizer, identifier: str, value: str, hashed: str) -> None:
    assert platform.normalize(identifier, value) == hashed


def test_sha512() -> None:
    hashed = LINKEDIN.normalize("SHA512_EMAIL", " Mary@Example.com ")
    assert hashed == hashlib.sha512(b"mary@example.com").hexdigest()
    assert LINKEDIN.normalize("SHA512_EMAIL", hashed.upper()) == hashed
    assert LINKEDIN.normalize("SHA512_EMAIL", sha256("mary@example.com")) == "", "a hash of another kind"


def test_what_goes_in_the_clear() -> None:
    assert LINKEDIN.normalize("GOOGLE_AID", " 2F5F5391-3E45 ") == "2f5f5391-3e45"
    assert META.normalize("EXTERN_ID", " User#1 ") == "User#1"


@pytest.mark.parametrize(
    ("platform", "identifier", "value"),
    [
        *((platform, identifier, blank) for platform, identifier in EACH for blank in ("", "  ", "\t\n")),
        (GOOGLE, "EMAIL", "nobody"),
        (GOOGLE, "EMAIL", "@example.com"),
        (GOOGLE, "EMAIL", "a@b"),
        (GOOGLE, "EMAIL", "a@b@example.com"),
        (GOOGLE, "EMAIL", "+shop@gmail.com"),
        (GOOGLE, "EMAIL", "..@gmail.com"),
        (GOOGLE, "PHONE", "020 7183 8750"),
        (GOOGLE, "PHONE", "12345"),
        (GOOGLE, "PHONE", "1234567890123456"),
        (TIKTOK, "PHONE_SHA256", "none"),
        (TIKTOK, "IDFA_SHA256", "00000000-0000-0000-0000-000000000000"),
        (LINKEDIN, "GOOGLE_AID", "00000000-0000-0000-0000-000000000000"),
        (LINKEDIN, "SHA256_EMAIL", "jane"),
    ],
)
def test_what_could_match_nobody_is_left_out(platform: Normalizer, identifier: str, value: str) -> None:
    assert platform.normalize(identifier, value) == ""


@pytest.mark.parametrize(("platform", "identifier"), HASHED)
def test_a_hash_is_never_hashed_again(platform: Normalizer, identifier: str) -> None:
    hashed = "0af9" * (hash_chars(identifier) // 4)
    assert platform.normalize(identifier, hashed) == hashed
    assert platform.normalize(identifier, f" {hashed.upper()} ") == hashed


@given(st.sampled_from(EACH), st.text() | st.emails())
def test_hashes_or_nothing_and_the_same_when_written_again(which: tuple[Normalizer, str], value: str) -> None:
    platform, identifier = which
    once = platform.normalize(identifier, value)
    assert once not in {sha256(""), hashlib.sha512(b"").hexdigest()}
    assert platform.normalize(identifier, once) == once
    if identifier not in PLAIN:
        assert once == "" or (len(once) == hash_chars(identifier) and set(once) <= set("0123456789abcdef"))


def test_the_names_under_which_the_rules_are_recorded() -> None:
    assert [platform.name for platform in PLATFORMS] == ["meta/1", "google/1", "tiktok/1", "linkedin/1"]
