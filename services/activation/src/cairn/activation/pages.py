"""Owns the pages that people see who follow an unsubscribe address: plain HTML, without scripts, cookies or pictures. Pure."""

import base64
import hashlib
from collections.abc import Mapping
from html import escape
from types import MappingProxyType

_STYLE = (
    "body{font:1.1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:3rem auto;padding:0 1rem;color:#222;background:#fff}"
    "button{font:inherit;display:block;width:100%;margin:.6rem 0;padding:.7rem;border:1px solid #555;border-radius:.4rem;"
    "background:#f4f4f4;color:#222;cursor:pointer}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'",
        "Cache-Control": "no-store",
        # The address itself is the permission: it must not travel on to other sites.
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Robots-Tag": "noindex, nofollow",
    }
)
"""What every answer of the public server carries."""


def mask(address: str) -> str:
    """An address as its owner knows it again and nobody else learns it: `a…@example.com`."""
    local, _, domain = address.rpartition("@")
    return f"{local[:1] if len(local) > 1 else ''}…@{domain}"


def preferences(address: str) -> str:
    """The page that a person chooses on. Opening it changes nothing."""
    return _page(
        "Your mail preferences",
        f"<p>This is about mail to <strong>{escape(mask(address))}</strong>.</p>"
        '<form method="post">'
        '<button name="scope" value="list">Send me no more mail of this kind</button>'
        '<button name="scope" value="all">Send me no more mail at all</button>'
        "</form><p>If you do nothing, nothing changes.</p>",
    )


def done(address: str, *, everything: bool) -> str:
    """The page after a choice; the same after the second time."""
    what = "no more mail from us" if everything else "no more mail of this kind"
    text = f"<p><strong>{escape(mask(address))}</strong> will get {what}.</p>"
    return _page("You are unsubscribed", f"{text}<p>You need do nothing else.</p>")


def unknown() -> str:
    """The page for an address that is none of ours."""
    return _page(
        "This address leads nowhere",
        "<p>It was probably cut or changed on its way. Open it from the message again, in full.</p>",
    )


def unclear() -> str:
    """The page for a form that says nothing we know."""
    return _page("Nothing was changed", "<p>Open the address from the message again and choose there.</p>")


def later() -> str:
    """The page while we can't write anything down."""
    return _page("Not just now", "<p>Your choice could not be saved. Please try again in a minute.</p>")


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{title}</h1>{body}</main></body></html>\n"
    )
