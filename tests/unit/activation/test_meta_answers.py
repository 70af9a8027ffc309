"""What the Graph API's answers mean."""

import json

import pytest

from cairn.activation.channels.audience import Row
from cairn.activation.channels.http import Answer
from cairn.activation.channels.meta_audience import MetaAudience
from cairn.activation.ledger import Fate
from cairn.activation.secrets import Secrets
from cairn.api.activation.v1 import activation_pb2 as pb

SCHEMA = ("EMAIL", "EXTERN_ID")
ROWS = [Row(f"p{number}", False, (f"{number:064x}", f"user-{number}")) for number in range(4)]


def error(code: object, **more: object) -> bytes:
    return json.dumps({"error": {"code": code, "message": "secret@example.com", **more}}).encode()


def read(status: int, body: bytes, **headers: str) -> object:
    platform = MetaAudience(pb.MetaAudienceConnection(audience_id="1"), Secrets(None))
    answer = Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)
    return platform.read(SCHEMA, ROWS, answer, 0)


@pytest.mark.parametrize(
    ("status", "body", "fate", "down"),
    [
        (200, b'{"audience_id": "1", "session_id": "7", "num_received": 1}', Fate.SENT, False),
        (400, error(100), Fate.FAILED, False),
        (400, error(100, is_transient=True), Fate.RETRY, True),
        (403, error(200), Fate.FAILED, False),
        (403, error(10), Fate.FAILED, False),
        (401, error(190), Fate.RETRY, False),
        (400, error(17), Fate.RETRY, True),
        (400, error(80003), Fate.RETRY, True),
        (500, error(2), Fate.RETRY, True),
        (503, error(100), Fate.RETRY, True),
        (429, error(100), Fate.RETRY, True),
        (200, error(100), Fate.FAILED, False),
        (200, b"<html>", Fate.RETRY, False),
        (502, b"<html>", Fate.RETRY, True),
        (404, b"<html>", Fate.RETRY, False),
        (200, b"[]", Fate.RETRY, False),
        (200, b"\xff\xfe", Fate.RETRY, False),
        (200, b"", Fate.RETRY, False),
        (302, b"{}", Fate.RETRY, False),
        (400, b'{"error": "text"}', Fate.RETRY, False),
        (400, b'{"error": {"code": "x"}}', Fate.FAILED, False),
        (400, error([1]), Fate.FAILED, False),
    ],
)
def test_answers(status: int, body: bytes, fate: Fate, down: bool) -> None:
    verdict = read(status, body)
    assert (verdict.rest.fate, verdict.rest.down) == (fate, down)
    assert not verdict.named
    assert "example.com" not in verdict.rest.detail


@pytest.mark.parametrize(
    ("body", "unnamed"),
    [(error(100), True), (error(100, error_subcode=33), False), (error(200), False), (error(17), False)],
)
def test_whether_it_may_be_because_of_some_people_only(body: bytes, unnamed: bool) -> None:
    assert read(400, body).unnamed == unnamed


def test_the_session_is_the_external_id_and_the_pause_is_obeyed() -> None:
    assert read(200, b'{"session_id": "7"}').rest.external_id == "7"
    assert read(429, error(17), Retry_After="30").rest.retry_after_us == 30_000_000


@pytest.mark.parametrize(
    ("invalid", "samples", "failed"),
    [
        (1, {f"{2:064x}": "not a hash"}, {2}),
        (1, {"0": f"{2:064x}"}, {2}),
        (2, {"user-1": "x", "user-3": "x"}, {1, 3}),
        (1, {"3": "malformed"}, {3}),
        (1, {"4": "no such place"}, set()),
        (1, {}, set()),
        (1, None, set()),
    ],
)
def test_invalid_entries_are_those_of_their_samples(invalid: int, samples: object, failed: set[int]) -> None:
    body = {"num_received": 4, "num_invalid_entries": invalid, "invalid_entry_samples": samples}
    verdict = read(200, json.dumps(body).encode())
    assert verdict.rest.fate is Fate.SENT
    assert {place for place, outcome in verdict.named.items() if outcome.fate is Fate.FAILED} == failed
    assert ("could not be read" in verdict.rest.detail) == (not failed)


def test_whoever_lacks_an_identifier_or_has_the_id_of_a_place_is_not_taken_for_another() -> None:
    rows = [Row("ada", False, ("a" * 64, "")), Row("bob", False, ("b" * 64, "0"))]
    for samples, place in (({"1": ""}, 1), ({"0": "a" * 64}, 0)):
        body = {"num_invalid_entries": 1, "invalid_entry_samples": samples}
        platform = MetaAudience(pb.MetaAudienceConnection(audience_id="1"), Secrets(None))
        verdict = platform.read(SCHEMA, rows, Answer(200, {}, json.dumps(body).encode()), 0)
        assert set(verdict.named) == {place}


def test_when_all_are_invalid_all_fail() -> None:
    verdict = read(200, b'{"num_received": 4, "num_invalid_entries": 4}')
    assert (verdict.rest.fate, verdict.named) == (Fate.FAILED, {})
