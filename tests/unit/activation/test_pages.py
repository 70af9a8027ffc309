"""The pages of the public server, and the forms that come back from them."""

import pytest

from cairn.activation import pages
from cairn.activation.feedback import RefusedError
from cairn.activation.public_server import ONE_CLICK, read_form

BOUNDARY = "----x"


def multipart(*fields: tuple[str, str]) -> bytes:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields
    ]
    return ("".join(parts) + f"--{BOUNDARY}--\r\n").encode()


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded", b"List-Unsubscribe=One-Click"),
        ("application/x-www-form-urlencoded; charset=utf-8", b"List-Unsubscribe=One-Click\r\n"),
        ("", b"List-Unsubscribe=One-Click"),
        (f"multipart/form-data; boundary={BOUNDARY}", multipart(ONE_CLICK)),
        (f'Multipart/Form-Data; boundary="{BOUNDARY}"', multipart(("other", "x"), ONE_CLICK)),
    ],
)
def test_one_click_is_read_however_it_is_sent(content_type: str, body: bytes) -> None:
    assert read_form(content_type, body)[ONE_CLICK[0]] == ONE_CLICK[1]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", multipart(ONE_CLICK)),
        ("multipart/form-data; boundary=another", multipart(ONE_CLICK)),
        ("multipart/form-data; boundary=\r\nX: y", b"\xff\xfe" * 100),
        (f"multipart/form-data; boundary={BOUNDARY}", b"--"),
        ("application/json", b'{"List-Unsubscribe": "One-Click"}'),
        ("", b"\0\xff"),
    ],
)
def test_what_is_no_form_says_nothing(content_type: str, body: bytes) -> None:
    assert ONE_CLICK[0] not in read_form(content_type, body)


def test_a_form_with_very_many_fields_is_refused() -> None:
    with pytest.raises(RefusedError):
        read_form("", b"&".join(b"a=b" for _ in range(500)))


@pytest.mark.parametrize(
    ("address", "shown"),
    [("ada@example.com", "a…@example.com"), ("a@example.com", "…@example.com"), ('"x"@e.com', '"…@e.com')],
)
def test_an_address_is_not_shown_in_full(address: str, shown: str) -> None:
    assert pages.mask(address) == shown


def test_a_page_is_escaped_and_holds_nothing_that_runs_or_loads() -> None:
    page = pages.preferences("<script>alert(1)</script>@<b>example.com")
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;b&gt;example.com" in page
    for forbidden in ("<img", "src=", "href=", "onclick", "javascript:"):
        assert forbidden not in page


def test_the_policy_allows_only_the_style_of_the_page() -> None:
    policy = pages.HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert pages.HEADERS["Cache-Control"] == "no-store"
    assert pages.HEADERS["Referrer-Policy"] == "no-referrer"
